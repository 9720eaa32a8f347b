-- Row key of dose n of a document: the id as served, `-i0b0` added only where it is absent; further doses get `-i<n>b0`.
-- writes: macro id_dose(id_documento, nu_dose)
create or replace temp macro id_dose(id_documento, nu_dose) as
case
    when nu_dose = 0 and regexp_matches(id_documento, '-i[0-9]{1,3}b[0-9]{1,3}$') then id_documento
    else regexp_replace(id_documento, '-i[0-9]{1,3}b[0-9]{1,3}$', '') || '-i' || cast(nu_dose as varchar) || 'b0'
end
