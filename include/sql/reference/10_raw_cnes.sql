-- Establishments as the official file has them, needed columns only, in file order.
-- reads:  $source (UTF-8, `;`, all quoted, no header: written by reference/cnes_file.py from an official file)
-- writes: raw_cnes
-- grain:  line of the file
-- params: $source text
create or replace table raw_cnes as
select
    co_unidade,
    co_cnes,
    no_razao_social,
    no_fantasia,
    tp_unidade,
    co_municipio_gestor,
    co_motivo_desab,
    co_natureza_jur,
    co_ibge
from read_csv(
    $source,
    auto_detect = false,
    header = false,
    delim = ';',
    quote = '"',
    escape = '"',
    new_line = '\n',
    columns = {
        'co_unidade': 'varchar',
        'co_cnes': 'varchar',
        'no_razao_social': 'varchar',
        'no_fantasia': 'varchar',
        'tp_unidade': 'varchar',
        'co_municipio_gestor': 'varchar',
        'co_motivo_desab': 'varchar',
        'co_natureza_jur': 'varchar',
        'co_ibge': 'varchar'
    }
)
