-- Municipality codes of the IBGE, 6 digits.
-- reads:  $municipios (include/reference/ibge/ibge_municipios.csv)
-- writes: raw_municipio
-- grain:  co_ibge_6
-- params: $municipios text
create or replace table raw_municipio as
select co_ibge_6
from read_csv($municipios, header = true, all_varchar = true, delim = ',', quote = '"', escape = '"', strict_mode = true)
