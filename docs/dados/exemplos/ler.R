#!/usr/bin/env Rscript
# Lê os arquivos de imunização de uma UF, num período, e mantém uma cópia local em dia.
#
#   Rscript ler.R ENDERECO --uf 53 --de 2026-03-01 --ate 2026-03-31 --pasta copia
#   Rscript ler.R ENDERECO --operacao imunizacao-residentes-df --de 2026-03-14 --ate 2026-03-14 --pasta copia
#
# ENDERECO é o do bucket: http(s)://servidor[:porta]/bucket, ou file:///pasta com uma cópia dele. Rodar de novo é "atualizar": o que
# não mudou não é baixado outra vez. Precisa de R 4.0 ou mais novo e do pacote jsonlite. Para conferir o sha256, do pacote digest ou
# openssl (R 4.5 já sabe fazer): sem eles só o tamanho é conferido, e o texto final diz isso.
#
# O caminho é o do contrato de publicação: catalog.json -> índice do mês -> head.json -> day.json -> descritor da UF -> CSV. Cada passo
# dá o sha256 do seguinte. A assinatura do dia (se houver) não é conferida aqui: isso faz `python -m imunizacao verify`.
#
# O que fica na pasta: AAAA-MM-DD/imunizacao-….csv (como foi publicado), AAAA-MM-DD/removed.csv (documentos que a fonte mandou retirar),
# consolidado.csv (as doses que valem: sem as retiradas nem as versões velhas) e estado.json (revisões e ETags).

if (!requireNamespace("jsonlite", quietly = TRUE)) {
  stop("Falta o pacote jsonlite: install.packages(\"jsonlite\") ou apt-get install r-cran-jsonlite")
}

UFS <- c(
  "11" = "RO", "12" = "AC", "13" = "AM", "14" = "RR", "15" = "PA", "16" = "AP", "17" = "TO",
  "21" = "MA", "22" = "PI", "23" = "CE", "24" = "RN", "25" = "PB", "26" = "PE", "27" = "AL", "28" = "SE", "29" = "BA",
  "31" = "MG", "32" = "ES", "33" = "RJ", "35" = "SP", "41" = "PR", "42" = "SC", "43" = "RS",
  "50" = "MS", "51" = "MT", "52" = "GO", "53" = "DF"
)
TENTATIVAS <- 4
pedidos <- c(baixados = 0, iguais = 0)

# Um problema que a pessoa precisa ver (falta: um manifesto cita o que não está no bucket), ou um objeto que não existe.
problema <- function(...) stop(structure(class = c("problema", "error", "condition"), list(message = paste0(...), call = NULL)))
falta <- function(...) stop(structure(class = c("falta", "problema", "error", "condition"), list(message = paste0(...), call = NULL)))
nao_existe <- function(...) stop(structure(class = c("nao_existe", "error", "condition"), list(message = paste0(...), call = NULL)))

# --- conferir ------------------------------------------------------------------------------------

# Quem sabe fazer sha256 aqui; NULL quando ninguém sabe.
sha256 <- if (requireNamespace("digest", quietly = TRUE)) {
  function(arquivo) digest::digest(file = arquivo, algo = "sha256")
} else if (requireNamespace("openssl", quietly = TRUE)) {
  function(arquivo) {
    aberto <- file(arquivo, "rb")
    on.exit(close(aberto))
    paste(as.character(openssl::sha256(aberto)), collapse = "")
  }
} else if (exists("sha256sum", where = asNamespace("tools"), inherits = FALSE)) {
  function(arquivo) unname(get("sha256sum", asNamespace("tools"))(arquivo))
} else {
  NULL
}

confere <- function(arquivo, hash) {
  is.null(sha256) || identical(sha256(arquivo), sub("^sha256:", "", hash))
}

# --- ler do bucket -------------------------------------------------------------------------------

endereco_de <- function(endereco, chave) paste0(sub("/+$", "", endereco), "/", gsub("=", "%3D", chave, fixed = TRUE))

# Baixa um objeto para um arquivo. Falha passageira é tentada de novo.
baixar <- function(endereco, chave, arquivo) {
  dir.create(dirname(arquivo), recursive = TRUE, showWarnings = FALSE)
  if (startsWith(endereco, "file://")) {
    origem <- file.path(sub("^file://", "", endereco), chave)
    if (!file.exists(origem)) nao_existe(chave)
    file.copy(origem, arquivo, overwrite = TRUE)
    pedidos["baixados"] <<- pedidos["baixados"] + 1
    return(invisible())
  }
  motivo <- ""
  for (tentativa in seq_len(TENTATIVAS)) {
    motivo <- tryCatch(
      {
        download.file(endereco_de(endereco, chave), arquivo, method = "libcurl", mode = "wb", quiet = TRUE)
        ""
      },
      warning = conditionMessage,
      error = conditionMessage
    )
    if (motivo == "") {
      pedidos["baixados"] <<- pedidos["baixados"] + 1
      return(invisible())
    }
    if (status_de(endereco, chave) %in% c(403, 404, 410)) nao_existe(chave, " (", motivo, ")")
    Sys.sleep(0.5 * 2^(tentativa - 1))
  }
  problema(chave, " não pôde ser lido em ", endereco, ": ", motivo, ". Confira o endereço e a rede e rode de novo.")
}

# Status HTTP de um objeto, perguntado com HEAD; 0 quando não há resposta. A mensagem de download.file muda com a língua e traz o endereço:
# os números que estão nela não dizem nada.
status_de <- function(endereco, chave) {
  tryCatch(attr(curlGetHeaders(endereco_de(endereco, chave)), "status"), error = function(erro) 0)
}

# ETag de um objeto, perguntado com HEAD; "" quando não há. O R básico não mostra os cabeçalhos da resposta de um GET, por isso a
# pergunta vem antes: se o objeto mudar entre as duas, o ETag guardado é o velho e a próxima atualização baixa de novo.
etag_de <- function(endereco, chave) {
  if (startsWith(endereco, "file://")) return("")
  linhas <- tryCatch(curlGetHeaders(endereco_de(endereco, chave)), error = function(erro) character())
  achada <- grep("^etag:", linhas, ignore.case = TRUE, value = TRUE)
  if (length(achada)) trimws(sub("^[^:]*:", "", achada[[1]])) else ""
}

# Lê um JSON que pode mudar (catálogo, índice, head), do bucket ou, se o ETag é o mesmo, da cópia guardada.
mutavel <- function(lugar, chave) {
  guardado <- file.path(lugar$pasta, ".guardados", gsub("/", "_", chave, fixed = TRUE))
  etag <- etag_de(lugar$endereco, chave)
  if (etag != "" && file.exists(guardado) && identical(lugar$estado$etags[[chave]], etag)) {
    pedidos["iguais"] <<- pedidos["iguais"] + 1
  } else {
    ao_lado <- paste0(guardado, ".novo")
    baixar(lugar$endereco, chave, ao_lado)
    file.rename(ao_lado, guardado)
    lugar$estado$etags[[chave]] <- etag
  }
  jsonlite::fromJSON(guardado, simplifyVector = FALSE)
}

# Baixa um objeto que nunca muda para `arquivo` e confere tamanho e sha256 com o que diz o manifesto acima dele.
conferido <- function(lugar, chave, hash, tamanho, arquivo) {
  ao_lado <- paste0(arquivo, ".novo")
  tryCatch(
    baixar(lugar$endereco, chave, ao_lado),
    nao_existe = function(erro) falta("Falta no bucket: ", conditionMessage(erro), ". Um manifesto cita este arquivo; avise quem publica.")
  )
  if (file.size(ao_lado) != tamanho || !confere(ao_lado, hash)) {
    achado <- file.size(ao_lado)
    unlink(ao_lado)
    problema(chave, " não confere (", achado, " bytes). Rode de novo; se repetir, avise quem publica.")
  }
  file.rename(ao_lado, arquivo)
  invisible(arquivo)
}

conferido_json <- function(lugar, chave, hash, tamanho) {
  dir.create(file.path(lugar$pasta, ".guardados"), recursive = TRUE, showWarnings = FALSE)
  arquivo <- conferido(lugar, chave, hash, tamanho, file.path(lugar$pasta, ".guardados", "manifesto.json"))
  jsonlite::fromJSON(arquivo, simplifyVector = FALSE)
}

# --- tabelas -------------------------------------------------------------------------------------

# Linhas de um CSV, como estão no arquivo. Nenhum valor tem quebra de linha.
linhas_de <- function(arquivo) {
  linhas <- readLines(arquivo, encoding = "UTF-8", warn = FALSE)
  list(cabecalho = linhas[[1]], linhas = linhas[-1], nomes = strsplit(gsub("\"", "", linhas[[1]], fixed = TRUE), ";", fixed = TRUE)[[1]])
}

# Valores de uma coluna de um CSV lido por `linhas_de`, sempre como texto: nenhum zero à esquerda se perde.
coluna <- function(tabela, nome) {
  if (!length(tabela$linhas)) return(character())
  lida <- read.table(
    text = tabela$linhas, sep = ";", quote = "\"", colClasses = "character", na.strings = character(),
    comment.char = "", encoding = "UTF-8", col.names = tabela$nomes, check.names = FALSE
  )
  lida[[nome]]
}

escrever <- function(cabecalho, linhas, arquivo) {
  dir.create(dirname(arquivo), recursive = TRUE, showWarnings = FALSE)
  ao_lado <- paste0(arquivo, ".novo")
  aberto <- file(ao_lado, "wb")
  writeLines(c(cabecalho, linhas), aberto, sep = "\n", useBytes = TRUE)
  close(aberto)
  file.rename(ao_lado, arquivo)
}

# O que vem antes de "-i" identifica o documento.
documento_de <- function(codigos) sub("-i[^-]*$", "", codigos)

# --- um dia --------------------------------------------------------------------------------------

arquivo_do_dia <- function(lugar, dia) {
  file.path(lugar$pasta, dia, paste0("imunizacao-", lugar$visao, "-", tolower(UFS[[lugar$uf]]), "_", dia, ".csv"))
}

retirados_do_dia <- function(lugar, dia) file.path(lugar$pasta, dia, "removed.csv")

# day.json, conferido com o head.
descrever_dia <- function(lugar, dia, atual) {
  if (!identical(atual$path, paste0("v1/days/", dia, "/c-", atual$contentId, "/day.json"))) {
    problema("head.json de ", dia, " aponta para fora do dia. Não use este dia e avise quem publica.")
  }
  conferido_json(lugar, atual$path, atual$sha256, atual$bytes)
}

# O removed.csv do conteúdo em vigor.
baixar_retirados <- function(lugar, dia, atual, manifesto) {
  dito <- manifesto$files$removed
  conferido(lugar, paste0(dirname(atual$path), "/removed.csv"), dito$sha256, dito$bytes, retirados_do_dia(lugar, dia))
}

# Se a cópia local ainda é o que foi baixado.
inteiro <- function(arquivo, tenho) {
  if (is.null(tenho$sha256) || tenho$sha256 == "") return(!is.null(tenho$situacao))
  file.exists(arquivo) && file.size(arquivo) == tenho$bytes && confere(arquivo, tenho$sha256)
}

atualizar_dia <- function(lugar, dia) {
  head <- tryCatch(mutavel(lugar, paste0("v1/days/", dia, "/head.json")), nao_existe = function(erro) NULL)
  if (is.null(head)) return("pendente: ainda não publicado (não é dia vazio)")
  tenho <- lugar$estado$dias[[dia]]
  if (is.null(tenho)) tenho <- list(revisao = 0)
  arquivo <- arquivo_do_dia(lugar, dia)
  retirada <- head$withdrawnUfs[[lugar$uf]]
  ultima <- head$history[[length(head$history)]]
  if (head$state == "withdrawn" || !is.null(retirada)) {
    # O que foi retirado sai da cópia. removed.csv é do dia, não da UF: só sai com o dia inteiro, ou as doses que ele cancela nos dias
    # anteriores voltariam a valer.
    unlink(arquivo)
    if (head$state == "withdrawn") {
      unlink(retirados_do_dia(lugar, dia))
    } else if (tenho$revisao != head$revision || !file.exists(retirados_do_dia(lugar, dia))) {
      baixar_retirados(lugar, dia, head$current, descrever_dia(lugar, dia, head$current))
    }
    lugar$estado$dias[[dia]] <- list(revisao = head$revision, situacao = "retirado")
    return(paste0("retirado: ", if (is.null(retirada)) ultima$note else retirada$reason))
  }
  if (tenho$revisao == head$revision && !identical(tenho$situacao, "retirado") && inteiro(arquivo, tenho)) {
    return(paste0("revisão ", head$revision, ", sem mudanças"))
  }
  atual <- head$current
  raiz <- dirname(atual$path)
  manifesto <- descrever_dia(lugar, dia, atual)
  da_uf <- Filter(function(uf) uf$uf == lugar$uf, manifesto$files$ufs)[[1]]
  pacote <- conferido_json(lugar, paste0(raiz, "/uf=", lugar$uf, "/datapackage.json"), da_uf$sha256, da_uf$bytes)
  nome <- paste0("imunizacao-", lugar$visao, "-", tolower(UFS[[lugar$uf]]))
  recurso <- Filter(function(um) um$name == nome, pacote$resources)
  dir.create(dirname(arquivo), recursive = TRUE, showWarnings = FALSE)
  if (!length(recurso)) {
    # Nenhuma dose do dia tem residência: não há arquivos de residentes.
    if (lugar$visao == "total") problema("O descritor da UF de ", dia, " não cita o arquivo dela. Avise quem publica.")
    unlink(arquivo)
    como <- "sem doses com residência"
    recurso <- list(hash = "", bytes = 0, "rnds:rows" = 0)
  } else {
    recurso <- recurso[[1]]
    # Nenhum nome que um manifesto dê pode sair da pasta do dia.
    if (!grepl("^[a-z0-9_=-][a-z0-9._=-]*$", recurso$path)) {
      problema("O descritor da UF de ", dia, " cita um caminho que não é permitido. Avise quem publica.")
    }
    if (pela_diferenca(lugar, dia, head, tenho, arquivo, recurso)) {
      como <- paste0("revisão ", tenho$revisao, " mais diferença")
    } else if (inteiro(arquivo, list(sha256 = sub("^sha256:", "", recurso$hash), bytes = recurso$bytes))) {
      como <- "conteúdo igual"
    } else {
      conferido(lugar, paste0(raiz, "/uf=", lugar$uf, "/", recurso$path), recurso$hash, recurso$bytes, arquivo)
      como <- "baixado"
    }
  }
  # removed.csv não faz parte da diferença: vem sempre do conteúdo novo.
  baixar_retirados(lugar, dia, atual, manifesto)
  lugar$estado$dias[[dia]] <- list(
    revisao = head$revision, contentId = atual$contentId, situacao = head$state,
    sha256 = sub("^sha256:", "", recurso$hash), bytes = recurso$bytes
  )
  paste0("revisão ", head$revision, " (", ultima$reason, "), ", recurso[["rnds:rows"]], " doses, ", como)
}

# --- passar da revisão n para a n + 1 sem baixar tudo -----------------------------------------------

# Leva o arquivo local à revisão em vigor pelas diferenças; FALSE quando é preciso baixar o dia inteiro. Sem sha256 não se pode provar
# que o resultado é igual ao publicado: então se baixa.
pela_diferenca <- function(lugar, dia, head, tenho, arquivo, recurso) {
  if (is.null(sha256) || is.null(tenho$sha256) || tenho$sha256 == "" || !inteiro(arquivo, tenho)) return(FALSE)
  tabela <- linhas_de(arquivo)
  conteudo <- tenho$contentId
  for (entrada in head$history) {
    # Mesmo conteúdo com outra entrada no histórico: nada a fazer.
    if (entrada$revision <= tenho$revisao || identical(entrada$contentId, conteudo)) next
    if (is.null(entrada$diff) || identical(entrada$reconciliation$verdict, "gap")) return(FALSE)
    if (lugar$visao == "residentes" || lugar$uf %in% names(entrada$diff$ufs)) {
      # Uma diferença que foi apagada não está mais no bucket.
      if (!is.null(entrada$diff$purgedAt)) return(FALSE)
      tabela <- tryCatch(aplicar(lugar, dia, tabela, entrada), falta = function(erro) NULL)
      if (is.null(tabela)) return(FALSE)
    }
    conteudo <- entrada$contentId
  }
  ao_lado <- paste0(arquivo, ".diferenca")
  escrever(tabela$cabecalho, tabela$linhas, ao_lado)
  # O resultado é igual, byte a byte, ao arquivo publicado. Se não for, baixa-se o dia inteiro.
  igual <- confere(ao_lado, recurso$hash)
  if (igual) file.rename(ao_lado, arquivo) else unlink(ao_lado)
  igual
}

aplicar <- function(lugar, dia, tabela, entrada) {
  inicio <- paste0("v1/days/", dia, "/diff/", entrada$supersedes, "-", entrada$revision, "-")
  if (!startsWith(entrada$diff$path, inicio) || !grepl("^[0-9a-f]{64}$", substring(entrada$diff$path, nchar(inicio) + 1))) {
    problema("A diferença da revisão ", entrada$revision, " de ", dia, " está fora do dia. Avise quem publica.")
  }
  partes <- lapply(c(added = "added", changed = "changed", removed = "removed"), function(nome) {
    dito <- entrada$diff$files[[nome]]
    chave <- paste0(entrada$diff$path, "/", nome, ".csv")
    linhas_de(conferido(lugar, chave, dito$sha256, dito$bytes, file.path(lugar$pasta, ".guardados", paste0(nome, ".csv"))))
  })
  novos <- partes$added$nomes
  if (!identical(novos[seq_along(tabela$nomes)], tabela$nomes)) return(NULL)
  # Colunas novas no fim ficam vazias nas linhas que não estão na diferença.
  resto <- strrep(";", length(novos) - length(tabela$nomes))
  lugar_da_linha <- if (lugar$visao == "total") "co_municipio_estabelecimento" else "co_municipio_paciente"
  fora <- c(coluna(partes$removed, "co_documento"), coluna(partes$changed, "co_documento"))
  ficam <- !(coluna(tabela, "co_documento") %in% fora)
  # As duas últimas colunas de changed.csv dizem onde a dose estava: não são do arquivo de doses.
  mudadas <- sub(";[^;]*;[^;]*$", "", partes$changed$linhas)
  linhas <- c(paste0(tabela$linhas[ficam], rep(resto, sum(ficam))), partes$added$linhas, mudadas)
  documentos <- c(coluna(tabela, "co_documento")[ficam], coluna(partes$added, "co_documento"), coluna(partes$changed, "co_documento"))
  lugares <- c(coluna(tabela, lugar_da_linha)[ficam], coluna(partes$added, lugar_da_linha), coluna(partes$changed, lugar_da_linha))
  aqui <- substr(lugares, 1, 2) == lugar$uf
  ordem <- order(lugares[aqui], documentos[aqui], method = "radix")
  list(cabecalho = partes$added$cabecalho, linhas = linhas[aqui][ordem], nomes = novos)
}

# --- o que vale ----------------------------------------------------------------------------------

# Escreve consolidado.csv. Do dia mais novo para o mais velho: sai a dose cujo documento foi retirado por um dia posterior (removed.csv)
# ou está num dia posterior (o documento mudou: vale a versão nova).
consolidar <- function(lugar, dias) {
  vistos <- character()
  partes <- list()
  cabecalho <- NULL
  nomes <- NULL
  for (dia in rev(dias)) {
    if (file.exists(arquivo_do_dia(lugar, dia))) {
      tabela <- linhas_de(arquivo_do_dia(lugar, dia))
      if (is.null(cabecalho)) {
        # A versão mais nova do contrato tem todas as colunas das anteriores e talvez mais no fim.
        cabecalho <- tabela$cabecalho
        nomes <- tabela$nomes
      }
      if (!identical(nomes[seq_along(tabela$nomes)], tabela$nomes)) {
        problema("As colunas de ", dia, " não são as dos dias mais novos: consolide os períodos em separado.")
      }
      documentos <- documento_de(coluna(tabela, "co_documento"))
      ficam <- !(documentos %in% vistos)
      resto <- strrep(";", length(nomes) - length(tabela$nomes))
      partes <- c(list(paste0(tabela$linhas[ficam], rep(resto, sum(ficam)))), partes)
      vistos <- c(vistos, documentos)
    }
    retirados <- retirados_do_dia(lugar, dia)
    if (file.exists(retirados)) vistos <- unique(c(vistos, documento_de(coluna(linhas_de(retirados), "co_documento"))))
  }
  destino <- file.path(lugar$pasta, "consolidado.csv")
  if (is.null(cabecalho)) {
    unlink(destino)
    return(0)
  }
  linhas <- unlist(partes)
  escrever(cabecalho, linhas, destino)
  length(linhas)
}

guardar <- function(lugar) {
  arquivo <- file.path(lugar$pasta, "estado.json")
  writeLines(jsonlite::toJSON(lugar$estado, auto_unbox = TRUE, pretty = TRUE), paste0(arquivo, ".novo"))
  file.rename(paste0(arquivo, ".novo"), arquivo)
}

sincronizar <- function(endereco, visao, uf, de, ate, pasta) {
  dir.create(pasta, recursive = TRUE, showWarnings = FALSE)
  # Um ambiente, e não uma lista: as funções acima anotam nele o que fizeram.
  lugar <- new.env()
  lugar$endereco <- endereco
  lugar$visao <- visao
  lugar$uf <- uf
  lugar$pasta <- pasta
  arquivo <- file.path(pasta, "estado.json")
  origem <- list(endereco = endereco, visao = visao, uf = uf)
  lugar$estado <- c(origem, list(dias = list(), etags = list()))
  if (file.exists(arquivo)) lugar$estado <- jsonlite::fromJSON(arquivo, simplifyVector = FALSE)
  if (!identical(lugar$estado[names(origem)], origem)) {
    problema("A pasta ", pasta, " guarda outra operação ou outro endereço. Use uma pasta para cada um.")
  }
  catalogo <- tryCatch(
    mutavel(lugar, "v1/catalog.json"),
    nao_existe = function(erro) problema("Não há catálogo em ", endereco, ": ", conditionMessage(erro), ". Confira o endereço.")
  )
  slug <- paste0("imunizacao-", visao, "-", tolower(UFS[[uf]]))
  if (!slug %in% vapply(catalogo$operations, function(um) um$slug, "")) {
    problema("A operação ", slug, " não é oferecida neste endereço.")
  }
  periodo <- as.character(seq(as.Date(de), as.Date(ate), by = "day"))
  feito <- setNames(rep("pendente: ainda não publicado (não é dia vazio)", length(periodo)), periodo)
  dias <- character()
  for (mes in intersect(unique(substr(periodo, 1, 7)), vapply(catalogo$months, function(um) um$month, ""))) {
    linhas <- mutavel(lugar, paste0("v1/months/", mes, "/index.json"))$days
    for (dia in intersect(periodo, vapply(linhas, function(um) um$day, ""))) {
      dias <- c(dias, dia)
      feito[[dia]] <- atualizar_dia(lugar, dia)
      # Depois de cada dia: o que for interrompido continua daqui.
      guardar(lugar)
    }
  }
  guardar(lugar)
  list(dias = feito, doses = consolidar(lugar, dias))
}

# --- opções --------------------------------------------------------------------------------------

principal <- function(ditas) {
  valor <- function(nome, padrao = "") {
    onde <- which(ditas == nome)
    # A última vale, como na linha de comando em geral.
    if (length(onde) && max(onde) < length(ditas)) ditas[[max(onde) + 1]] else padrao
  }
  endereco <- if (length(ditas)) ditas[[1]] else ""
  operacao <- valor("--operacao")
  uf <- valor("--uf")
  visao <- "total"
  partes <- regmatches(operacao, regexec("^imunizacao-(total|residentes)-([a-z]{2})$", operacao))[[1]]
  if (length(partes) && toupper(partes[[3]]) %in% UFS) {
    visao <- partes[[2]]
    uf <- names(UFS)[UFS == toupper(partes[[3]])]
  } else if (operacao != "" || !uf %in% names(UFS)) {
    problema("Diga --uf com o código IBGE da UF (por exemplo 53) ou --operacao (por exemplo imunizacao-total-df).")
  }
  if (valor("--de") == "" || valor("--ate") == "") problema("Diga --de e --ate, AAAA-MM-DD.")
  pasta <- valor("--pasta", "copia")
  feito <- sincronizar(sub("/+$", "", endereco), visao, uf, valor("--de"), valor("--ate"), pasta)
  for (dia in names(feito$dias)) cat(dia, "  ", feito$dias[[dia]], "\n", sep = "")
  cat(feito$doses, " doses valem; veja ", file.path(pasta, "consolidado.csv"), "\n", sep = "")
  cat(pedidos[["baixados"]], " objetos baixados, ", pedidos[["iguais"]], " sem mudanças\n", sep = "")
  if (is.null(sha256)) cat("O sha256 NÃO foi conferido: instale o pacote digest ou openssl.\n")
  cat("A assinatura não foi conferida: para isso, `python -m imunizacao verify`.\n")
}

tryCatch(principal(commandArgs(trailingOnly = TRUE)), error = function(erro) {
  message(conditionMessage(erro))
  quit(status = 1)
})
