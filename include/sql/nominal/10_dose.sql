-- The rows to publish with the person of each: same rows, same keys, three columns more.
-- reads:  $dose, $bad_keys, $identity
-- writes: $destination (Parquet, a local file)
-- grain:  nu_parte, nu_linha, nu_dose
-- params: $dose text, $bad_keys text, $identity text, $destination text
copy (
    with dose as (select * from read_parquet($dose)),

    bad_key as (select nu_parte, nu_linha, nu_dose from read_parquet($bad_keys)),

    identity as (
        select nu_parte, nu_linha, nu_dose, nu_cns_paciente, nu_cpf_paciente, dt_nascimento_paciente
        from read_parquet($identity)
    )

    select
        dose.*,
        identity.nu_cns_paciente,
        identity.nu_cpf_paciente,
        identity.dt_nascimento_paciente
    from dose
    anti join bad_key using (nu_parte, nu_linha, nu_dose)
    inner join identity using (nu_parte, nu_linha, nu_dose)
)
to $destination (format parquet, compression zstd, row_group_size 40000)
