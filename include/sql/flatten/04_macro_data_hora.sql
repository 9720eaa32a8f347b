-- An instant as published: ISO 8601 with milliseconds, always at -03:00 (one offset, so that the texts sort as the instants do).
-- writes: macro data_hora(valor)
create or replace temp macro data_hora(valor) as
strftime(timezone('UTC', valor) - interval 3 hours, '%Y-%m-%dT%H:%M:%S.%g') || '-03:00'
