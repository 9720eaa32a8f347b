-- Runs of digits of a text, and the digits of what is grouped like a CPF (3-3-3-2) or a CNS (3-4-4-4) with points or hyphens.
-- Separators are doubled first: the one after a number may be the one before the next.
-- writes: macro numeros_agrupados(valor)
create or replace temp macro numeros_agrupados(valor) as
regexp_extract_all(valor, '[0-9]+')
|| list_transform(
    regexp_extract_all(
        regexp_replace(valor, '([^0-9])', '\1\1', 'g'),
        '(?:^|[^0-9])([0-9]{3}[.-]{0,2}[0-9]{3}[.-]{0,2}[0-9]{3}[.-]{0,2}[0-9]{2})(?:[^0-9]|$)',
        1
    )
    || regexp_extract_all(
        regexp_replace(valor, '([^0-9])', '\1\1', 'g'),
        '(?:^|[^0-9])([0-9]{3}[.-]{0,2}[0-9]{4}[.-]{0,2}[0-9]{4}[.-]{0,2}[0-9]{4})(?:[^0-9]|$)',
        1
    ),
    lambda numero: translate(numero, '.-', '')
)
