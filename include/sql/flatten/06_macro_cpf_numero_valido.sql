-- Check of the CPF given as a number of up to eleven digits (leading zeros count): not all equal, two check digits modulo 11.
-- Source: Receita Federal, calculo do DV do CPF. Of a number and not of eleven pieces of text: this runs for every dose.
-- writes: macro cpf_numero_valido(numero)
create or replace temp macro cpf_numero_valido(numero) as
coalesce(
    numero % 11111111111 <> 0
    and (
        numero // 10000000000 * 10 + numero // 1000000000 % 10 * 9 + numero // 100000000 % 10 * 8
        + numero // 10000000 % 10 * 7 + numero // 1000000 % 10 * 6 + numero // 100000 % 10 * 5
        + numero // 10000 % 10 * 4 + numero // 1000 % 10 * 3 + numero // 100 % 10 * 2
    ) * 10 % 11 % 10 = numero // 10 % 10
    and (
        numero // 10000000000 * 11 + numero // 1000000000 % 10 * 10 + numero // 100000000 % 10 * 9
        + numero // 10000000 % 10 * 8 + numero // 1000000 % 10 * 7 + numero // 100000 % 10 * 6
        + numero // 10000 % 10 * 5 + numero // 1000 % 10 * 4 + numero // 100 % 10 * 3 + numero // 10 % 10 * 2
    ) * 10 % 11 % 10 = numero % 10,
    false
)
