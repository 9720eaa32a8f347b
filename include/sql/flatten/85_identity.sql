-- Who the person of each dose is, for the nominal files alone: never written to the work bucket.
-- reads:  $raw_document, raw_any_shape_document, raw_any_shape_dose, int_dose_key
-- writes: $destination (Parquet, a local file)
-- grain:  nu_parte, nu_linha, nu_dose
-- params: $raw_document text[], $destination text
copy (
    with raw_document as (
        select
            (cast(nu_parte as bigint) << 32) + file_row_number as nu_documento,
            coalesce(tx_paciente, tx_paciente_immunization) as tx_pessoa,
            pat_birth
        from read_parquet($raw_document, file_row_number = true)
        where in_forma
    ),

    dose_key as (select nu_documento, nu_parte, nu_linha, nu_dose from int_dose_key where len(ds_motivos) = 0),

    source as (
        select dose_key.nu_parte, dose_key.nu_linha, dose_key.nu_dose, raw_document.tx_pessoa, raw_document.pat_birth
        from dose_key
        inner join raw_document on dose_key.nu_documento = raw_document.nu_documento

        union all

        select
            dose_key.nu_parte,
            dose_key.nu_linha,
            dose_key.nu_dose,
            coalesce(documento.tx_paciente, aplicada.tx_paciente_immunization) as tx_pessoa,
            documento.pat_birth
        from dose_key
        inner join raw_any_shape_dose as aplicada
            on dose_key.nu_documento = aplicada.nu_documento and dose_key.nu_dose = aplicada.nu_dose
        inner join raw_any_shape_document as documento on dose_key.nu_documento = documento.nu_documento
    ),

    typed as (
        select
            nu_parte,
            nu_linha,
            cast(nu_dose as integer) as nu_dose,
            regexp_replace(tx_pessoa, '[^0-9]', '', 'g') as nu_pessoa,
            data_civil(trim(pat_birth)) as dt_nascimento_paciente
        from source
    )

    select
        nu_parte,
        nu_linha,
        nu_dose,
        case when length(nu_pessoa) = 15 then nu_pessoa end as nu_cns_paciente,
        case when length(nu_pessoa) = 11 then nu_pessoa end as nu_cpf_paciente,
        dt_nascimento_paciente
    from typed
)
to $destination (format parquet, compression zstd)
