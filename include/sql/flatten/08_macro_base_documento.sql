-- RNDS document id without the suffix of the dose (`-i0b0`): what two references to the same document have in common.
-- Takes a bare id or a FHIR reference (`Composition/<id>`, an absolute address, `.../_history/2`).
-- reads:  macro ultimo_segmento
-- writes: macro base_documento(valor)
create or replace temp macro base_documento(valor) as
regexp_replace(ultimo_segmento(valor), '-i[0-9]{1,3}b[0-9]{1,3}$', '')
