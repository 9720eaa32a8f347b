-- Whether a text holds a CNS or CPF with right check digits: a run of digits as it stands, or once the punctuation of such numbers is
-- left out. The last reading holds every run of the others, so it tells which texts need the work (hardly any).
-- writes: macro contem_identificador(valor)
create or replace temp macro contem_identificador(valor) as
case
    when length(valor) >= 11
        then
            case
                when regexp_matches(valor, '(?:[0-9][^0-9]*){11}')
                    then
                        len(
                            list_filter(
                                regexp_extract_all(valor, '[0-9]+')
                                || regexp_extract_all(translate(valor, './-', ''), '[0-9]+')
                                || regexp_extract_all(translate(valor, './- ', ''), '[0-9]+')
                                || [regexp_replace(valor, '[^0-9]', '', 'g')],
                                lambda digitos: cns_valido(digitos) or cpf_valido(digitos)
                            )
                        ) > 0
                else false
            end
    else false
end
