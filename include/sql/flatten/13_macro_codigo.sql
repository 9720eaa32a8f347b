-- A code as a document gives it: its text, unless that is or holds somebody's CNS or CPF. The table of doses has no identifiers,
-- also where a rule would quarantine the row. Up to ten plain characters are a code as they stand, and nearly all codes are that.
-- reads:  macros texto, contem_identificador
-- writes: macro codigo(valor)
create or replace temp macro codigo(valor) as
case
    when regexp_full_match(valor, '[!-~]{1,10}') then valor
    when not contem_identificador(valor) then texto(valor)
end
