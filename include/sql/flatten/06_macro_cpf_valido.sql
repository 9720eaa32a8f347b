-- Check of the CPF: 11 digits, not all equal, two check digits modulo 11. Source: Receita Federal, calculo do DV do CPF.
-- writes: macro cpf_valido(digitos)
create or replace temp macro cpf_valido(digitos) as
coalesce(
    regexp_full_match(digitos, '[0-9]{11}')
    and digitos <> repeat(digitos[1], 11)
    and (
        (ord(digitos[1]) - 48) * 10 + (ord(digitos[2]) - 48) * 9 + (ord(digitos[3]) - 48) * 8
        + (ord(digitos[4]) - 48) * 7 + (ord(digitos[5]) - 48) * 6 + (ord(digitos[6]) - 48) * 5
        + (ord(digitos[7]) - 48) * 4 + (ord(digitos[8]) - 48) * 3 + (ord(digitos[9]) - 48) * 2
    ) * 10 % 11 % 10 = ord(digitos[10]) - 48
    and (
        (ord(digitos[1]) - 48) * 11 + (ord(digitos[2]) - 48) * 10 + (ord(digitos[3]) - 48) * 9
        + (ord(digitos[4]) - 48) * 8 + (ord(digitos[5]) - 48) * 7 + (ord(digitos[6]) - 48) * 6
        + (ord(digitos[7]) - 48) * 5 + (ord(digitos[8]) - 48) * 4 + (ord(digitos[9]) - 48) * 3
        + (ord(digitos[10]) - 48) * 2
    ) * 10 % 11 % 10 = ord(digitos[11]) - 48,
    false
)
