-- HMAC-SHA256 (RFC 2104) in lower-case hex: `chave_i` and `chave_o` are the 64-byte key block xor 0x36 and xor 0x5c.
-- Python's hmac module gives the same digest (tested).
-- writes: macro pseudonimo(mensagem, chave_i, chave_o)
create or replace temp macro pseudonimo(mensagem, chave_i, chave_o) as
sha256(chave_o || unhex(sha256(chave_i || encode(mensagem))))
