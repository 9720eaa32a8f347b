-- Whether a text is a CPF: eleven digits that pass its check.
-- reads:  macro cpf_numero_valido
-- writes: macro cpf_valido(digitos)
create or replace temp macro cpf_valido(digitos) as
coalesce(regexp_full_match(digitos, '[0-9]{11}') and cpf_numero_valido(try_cast(digitos as bigint)), false)
