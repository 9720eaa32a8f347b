-- Text as we publish it: control characters (line breaks, tabs, NUL) become one space, the ends are trimmed, empty is null.
-- The guard keeps the regular expression away from the texts that do not need it (nearly all of them).
-- writes: macro texto(valor)
create or replace temp macro texto(valor) as
nullif(
    trim(
        case
            when regexp_matches(valor, '[\x{0}-\x{1f}\x{7f}-\x{9f}\x{2028}\x{2029}]')
                then regexp_replace(valor, '[\x{0}-\x{1f}\x{7f}-\x{9f}\x{2028}\x{2029}]+', ' ', 'g')
            else valor
        end
    ),
    ''
)
