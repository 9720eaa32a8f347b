-- Whether a document id says who somebody is: in it, outside of UUIDs (in which such a run comes by chance), is a valid CNS or CPF,
-- as a run of digits or grouped as people write them (529.982.247-25, 529982247-25, 700-0000-0000-0005). Takes a bare id or a FHIR
-- reference. Other groupings are not joined: one number of eleven digits in a hundred is a valid CPF by chance, and ids hold dates.
-- CASE keeps UUIDs with the suffix of a dose, and ids with few digits in a row, from what is dear (AND would not).
-- reads:  macros cns_valido, cpf_valido
-- writes: macro id_com_identificador(valor)
create or replace temp macro id_com_identificador(valor) as
coalesce(
    case
        when
            regexp_full_match(
                valor,
                '[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(-i[0-9]{1,3}b[0-9]{1,3})?'
            )
            then false
        when regexp_matches(valor, '(?:[0-9][.-]?){11}')
            then
                len(
                    list_filter(
                        numeros_agrupados(
                            regexp_replace(
                                valor,
                                '[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(-i[0-9]|[^0-9a-fA-F]|$)',
                                ' ',
                                'g'
                            )
                        ),
                        lambda digitos: cns_valido(digitos) or cpf_valido(digitos)
                    )
                ) > 0
    end,
    false
)
