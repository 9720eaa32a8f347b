-- Transitive closure of the replacements: from each document to all that it takes the place of. `union` removes repeated pairs,
-- so a cycle ends the recursion instead of feeding it.
-- reads:  int_replaces
-- writes: int_reach
-- grain:  nu_de, nu_ate
create or replace temp table int_reach as
with recursive reach as (
    select nu_novo as nu_de, nu_antigo as nu_ate
    from int_replaces
    union
    select reach.nu_de, int_replaces.nu_antigo
    from reach
    inner join int_replaces on reach.nu_ate = int_replaces.nu_novo
)

select nu_de, nu_ate from reach
