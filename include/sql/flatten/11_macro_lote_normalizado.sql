-- A lot as rules compare it: ASCII letters and the accented letters of Portuguese in upper case without accents, digits, nothing else.
-- writes: macro lote_normalizado(valor)
create or replace temp macro lote_normalizado(valor) as
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
