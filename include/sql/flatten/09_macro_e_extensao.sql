-- Whether an address names this extension: `/<nome>` at its end, or `/<nome>-<version>`.
-- writes: macro e_extensao(endereco, nome)
create or replace temp macro e_extensao(endereco, nome) as
coalesce(
    ends_with(endereco, '/' || nome)
    or (contains(endereco, '/' || nome || '-') and regexp_matches(endereco, '/' || nome || '-[0-9.]+$')),
    false
)
