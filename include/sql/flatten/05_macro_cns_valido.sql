-- Whether a text is a Cartao Nacional de Saude: fifteen digits that pass its check.
-- reads:  macro cns_numero_valido
-- writes: macro cns_valido(digitos)
create or replace temp macro cns_valido(digitos) as
coalesce(regexp_full_match(digitos, '[0-9]{15}') and cns_numero_valido(try_cast(digitos as bigint)), false)
