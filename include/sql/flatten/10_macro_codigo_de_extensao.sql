-- Code of the first extension with this name; null when there is none.
-- reads:  macro e_extensao
-- writes: macro codigo_de_extensao(lista, nome)
create or replace temp macro codigo_de_extensao(lista, nome) as
list_filter(lista, lambda e: e_extensao(e.url, nome))[1].valuecodeableconcept.coding[1].code
