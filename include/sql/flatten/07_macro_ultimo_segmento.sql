-- What stands after the last slash of a FHIR reference or address, without the version (`.../_history/2`): the id that it names.
-- Empty where it ends in a slash. The guard keeps the regular expression away from what does not need it.
-- writes: macro ultimo_segmento(valor)
create or replace temp macro ultimo_segmento(valor) as
split_part(
    case when contains(valor, '/_history/') then regexp_replace(valor, '/_history/.*$', '') else valor end, '/', -1
)
