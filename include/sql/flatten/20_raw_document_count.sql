-- How many landed lines were read.
-- reads:  $raw_document
-- writes: (one row)
-- params: $raw_document text[]
select count(*) as qt from read_parquet($raw_document)
