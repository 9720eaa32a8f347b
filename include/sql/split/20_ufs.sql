-- The 27 UFs in code order.
-- reads:  $ufs
-- writes: (rows)
-- grain:  co_uf
-- params: $ufs text
select co_uf, sg_uf
from read_parquet($ufs)
order by co_uf
