-- Code of an element with several codings: that of the national table; without one, the first of a system that may be national: none
-- is stated, or its address has a `/BR…` table or the word saude. A SNOMED or CVX code is not one of ours, whatever its digits.
-- Source: Composition and Immunization of the RNDS bind these elements to tables of `…saude.gov.br/fhir/r4/CodeSystem/BR…`.
-- reads:  macro e_extensao
-- writes: macro codigo_nacional(codificacoes, tabela)
create or replace temp macro codigo_nacional(lista, tabela) as
coalesce(
    list_filter(lista, lambda c: e_extensao(c.system, tabela))[1].code,
    list_filter(
        lista,
        lambda c: coalesce(c.system, '') = '' or contains(c.system, '/BR') or contains(lower(c.system), 'saude')
    )[1].code
)
