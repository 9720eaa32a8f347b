-- An instant from FHIR text: date-time with offset or Z. A bare date, a time without offset or an unreadable text is null.
-- writes: macro instante(valor)
create or replace temp macro instante(valor) as
case
    when
        length(valor) > 16
        and valor[11] = 'T'
        and (ends_with(valor, 'Z') or (valor[-6] in ('+', '-') and valor[-3] = ':'))
        then try_cast(valor as timestamptz)
end
