-- What becomes of every landed line. Removed by the source wins over superseded: the document says so itself.
-- reads:  stg_document, int_duplicate, int_superseded
-- writes: int_fate
-- grain:  nu_documento
create or replace temp table int_fate as
select
    document.nu_documento,
    document.qt_doses,
    document.id_documento,
    document.co_chave,
    document.dt_instante,
    document.dt_exclusao,
    document.st_composition,
    document.tx_substitui,
    document.co_chave_substituida,
    document.tx_perfil_composition,
    document.tp_documento,
    document.in_forma,
    document.ds_motivos,
    case
        when int_duplicate.nu_documento is not null then 'duplicate'
        when document.in_outro_tipo then 'other'
        -- A document with a status `deleted` of its own has the reason STATUS_UNKNOWN: here it is a line that tells of a deletion.
        -- A cancelled document may be served without its doses: that is no reason to doubt the cancellation.
        when
            document.st_composition in ('entered-in-error', 'deleted')
            and len(list_filter(document.ds_motivos, lambda motivo: motivo <> 'DOSE_MISSING')) = 0
            then 'removed'
        when int_superseded.nu_documento is not null then 'superseded'
        else 'alive'
    end as tp_destino
from stg_document as document
left join int_duplicate on document.nu_documento = int_duplicate.nu_documento
left join int_superseded on document.nu_documento = int_superseded.nu_documento
