-- Columns of a table or view.
-- writes: (rows)
-- params: $name text
select column_name
from duckdb_columns()
where table_name = $name
order by column_name
