-- Whether a document id says who somebody is: a run of exactly 15 or 11 digits in it is a valid CNS or CPF, and it is no UUID
-- (in which such a run comes by chance). Takes a bare id or a FHIR reference.
-- CASE keeps UUIDs with the suffix of a dose, and ids without 11 digits in a row, from what is dear (AND would not).
-- reads:  macros cns_valido, cpf_valido
-- writes: macro id_com_identificador(valor)
create or replace temp macro id_com_identificador(valor) as
coalesce(
    case
        when length(valor) < 47 and valor like '________-____-____-____-____________%' then false
        when regexp_matches(valor, '[0-9]{11}')
            then
                len(
                    list_filter(
                        regexp_extract_all(
                            regexp_replace(
                                valor, '[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}', '', 'g'
                            ),
                            '[0-9]+'
                        ),
                        lambda digitos: cns_valido(digitos) or cpf_valido(digitos)
                    )
                ) > 0
    end,
    false
)
