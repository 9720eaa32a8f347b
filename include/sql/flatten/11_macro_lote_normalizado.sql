-- A lot as rules compare it: ASCII letters and the accented letters of Portuguese in upper case without accents, digits, nothing else.
-- Nearly all lots are ASCII: `translate` costs twenty times what `upper` does.
-- writes: macro lote_normalizado(valor)
create or replace temp macro lote_normalizado(valor) as
case
    when regexp_full_match(valor, '[A-Z0-9]*') then valor
    when regexp_full_match(valor, '[\x{20}-\x{7e}]*') then regexp_replace(upper(valor), '[^A-Z0-9]', '', 'g')
    else
        regexp_replace(
            translate(
                valor,
                'abcdefghijklmnopqrstuvwxyzáàâãäéèêëíìîïóòôõöúùûüçÁÀÂÃÄÉÈÊËÍÌÎÏÓÒÔÕÖÚÙÛÜÇ',
                'ABCDEFGHIJKLMNOPQRSTUVWXYZAAAAAEEEEIIIIOOOOOUUUUCAAAAAEEEEIIIIOOOOOUUUUC'
            ),
            '[^A-Z0-9]',
            '',
            'g'
        )
end
