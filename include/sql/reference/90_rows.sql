-- How many rows a Parquet file has.
-- reads:  $source (Parquet)
-- writes: (one row)
-- grain:  one row
-- params: $source text
select count(*) as qt
from read_parquet($source)
