-- Establishments of a stored snapshot, as PostgreSQL's `copy` wrote them.
-- reads:  $source (CSV, no header)
-- writes: int_cnes
-- grain:  co_cnes
-- params: $source text
create or replace table int_cnes as
select
    co_cnes,
    co_municipio_6,
    no_razao_social,
    no_fantasia,
    co_tipo_estabelecimento,
    co_natureza_juridica,
    co_motivo_desab
from read_csv(
    $source,
    auto_detect = false,
    header = false,
    delim = ',',
    quote = '"',
    escape = '"',
    new_line = '\n',
    nullstr = '',
    columns = {
        'co_cnes': 'varchar',
        'co_municipio_6': 'varchar',
        'no_razao_social': 'varchar',
        'no_fantasia': 'varchar',
        'co_tipo_estabelecimento': 'varchar',
        'co_natureza_juridica': 'varchar',
        'co_motivo_desab': 'varchar'
    }
)
