-- Civil date of a FHIR date or date-time. A text with a local offset is dated where it was written; a text in UTC is dated
-- in Brasilia, because 2021-05-21T01:04:28Z is still the 20th for the person who was vaccinated.
-- A partial date (2021 or 2021-05) names no day: null. So does a year that is not one of four digits from 0001.
-- writes: macro data_civil(valor)
create or replace temp macro data_civil(valor) as
case
    when valor[5] <> '-' or valor[8] <> '-' or starts_with(valor, '-') or starts_with(valor, '0000') then null
    when length(valor) = 10 then try_cast(valor as date)
    when length(valor) > 16 and valor[11] = 'T' and (ends_with(valor, 'Z') or ends_with(valor, '+00:00'))
        then cast(timezone('America/Sao_Paulo', try_cast(valor as timestamptz)) as date)
    when length(valor) > 16 and valor[11] = 'T' and try_cast(valor as timestamptz) is not null
        then try_cast(valor[:10] as date)
end
