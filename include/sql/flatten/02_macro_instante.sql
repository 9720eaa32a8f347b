-- An instant from FHIR text (date-time with offset or Z); a bare date or an unreadable text is null.
-- writes: macro instante(valor)
create or replace temp macro instante(valor) as
case when length(valor) > 16 and valor[11] = 'T' then try_cast(valor as timestamptz) end
