-- Check of the Cartao Nacional de Saude: 15 digits, first digit 1, 2, 7, 8 or 9, weighted sum (15 down to 1) divisible by 11;
-- definitive numbers (1, 2) are an 11-digit base, 000 and the check digit; 001 stands there only where the check digit of 000 would
-- be 10, so that a base has one number. Source: DATASUS, rotina de validacao do CNS.
-- writes: macro cns_valido(digitos)
create or replace temp macro cns_valido(digitos) as
coalesce(
    regexp_full_match(digitos, '[12][0-9]{10}00[01][0-9]|[789][0-9]{14}')
    and (
        (ord(digitos[1]) - 48) * 15 + (ord(digitos[2]) - 48) * 14 + (ord(digitos[3]) - 48) * 13
        + (ord(digitos[4]) - 48) * 12 + (ord(digitos[5]) - 48) * 11 + (ord(digitos[6]) - 48) * 10
        + (ord(digitos[7]) - 48) * 9 + (ord(digitos[8]) - 48) * 8 + (ord(digitos[9]) - 48) * 7
        + (ord(digitos[10]) - 48) * 6 + (ord(digitos[11]) - 48) * 5 + (ord(digitos[12]) - 48) * 4
        + (ord(digitos[13]) - 48) * 3 + (ord(digitos[14]) - 48) * 2 + (ord(digitos[15]) - 48)
    ) % 11 = 0
    and (
        digitos[1] in ('7', '8', '9')
        or digitos[14] = '0'
        or (
            (ord(digitos[1]) - 48) * 15 + (ord(digitos[2]) - 48) * 14 + (ord(digitos[3]) - 48) * 13
            + (ord(digitos[4]) - 48) * 12 + (ord(digitos[5]) - 48) * 11 + (ord(digitos[6]) - 48) * 10
            + (ord(digitos[7]) - 48) * 9 + (ord(digitos[8]) - 48) * 8 + (ord(digitos[9]) - 48) * 7
            + (ord(digitos[10]) - 48) * 6 + (ord(digitos[11]) - 48) * 5
        ) % 11 = 1
    ),
    false
)
