-- Check of the Cartao Nacional de Saude given as a number: fifteen digits, first digit 1, 2, 7, 8 or 9, weighted sum (15 down to 1)
-- divisible by 11; definitive numbers (1, 2) are an 11-digit base, 000 and the check digit; 001 stands there only where the check
-- digit of 000 would be 10, so that a base has one number. Source: DATASUS, rotina de validacao do CNS.
-- Of a number and not of fifteen pieces of text: this runs for every dose.
-- writes: macro cns_numero_valido(numero)
create or replace temp macro cns_numero_valido(numero) as
coalesce(
    numero // 100000000000000 in (1, 2, 7, 8, 9)
    and (
        numero // 100000000000000 * 15 + numero // 10000000000000 % 10 * 14 + numero // 1000000000000 % 10 * 13
        + numero // 100000000000 % 10 * 12 + numero // 10000000000 % 10 * 11 + numero // 1000000000 % 10 * 10
        + numero // 100000000 % 10 * 9 + numero // 10000000 % 10 * 8 + numero // 1000000 % 10 * 7
        + numero // 100000 % 10 * 6 + numero // 10000 % 10 * 5 + numero // 1000 % 10 * 4 + numero // 100 % 10 * 3
        + numero // 10 % 10 * 2 + numero % 10
    ) % 11 = 0
    and (
        numero // 100000000000000 >= 7
        or numero // 10 % 1000 = 0
        or (
            numero // 10 % 1000 = 1
            and (
                numero // 100000000000000 * 15 + numero // 10000000000000 % 10 * 14
                + numero // 1000000000000 % 10 * 13 + numero // 100000000000 % 10 * 12
                + numero // 10000000000 % 10 * 11 + numero // 1000000000 % 10 * 10 + numero // 100000000 % 10 * 9
                + numero // 10000000 % 10 * 8 + numero // 1000000 % 10 * 7 + numero // 100000 % 10 * 6
                + numero // 10000 % 10 * 5
            ) % 11 = 1
        )
    ),
    false
)
