#!/usr/bin/env python3
"""Lê os arquivos de imunização de uma UF, num período, e mantém uma cópia local em dia.

    python ler.py ENDERECO --uf 53 --de 2026-03-01 --ate 2026-03-31 --pasta copia
    python ler.py ENDERECO --operacao imunizacao-residentes-df --de 2026-03-14 --ate 2026-03-14 --pasta copia

ENDERECO é o do bucket: http(s)://servidor[:porta]/bucket, ou file:///pasta com uma cópia dele. Rodar de novo é "atualizar": o que não
mudou não é baixado outra vez. Só usa a biblioteca padrão do Python 3.9 ou mais novo; pode ser copiado e adaptado à vontade.

O caminho é o do contrato de publicação: catalog.json -> índice do mês -> head.json -> day.json -> descritor da UF -> CSV. Cada passo
dá o sha256 do seguinte, e nada é usado sem conferir. A assinatura do dia (se houver) não é conferida aqui: isso faz o comando
`python -m imunizacao verify`.

O que fica na pasta:
    AAAA-MM-DD/imunizacao-….csv   o arquivo do dia, byte a byte como foi publicado
    AAAA-MM-DD/removed.csv        documentos que a fonte mandou retirar naquele dia
    consolidado.csv               as doses que valem: todas as do período, sem as retiradas nem as versões velhas
    estado.json                   revisão de cada dia e ETag do que pode mudar
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import date, timedelta
from pathlib import Path

UFS = {
    "11": "RO", "12": "AC", "13": "AM", "14": "RR", "15": "PA", "16": "AP", "17": "TO",
    "21": "MA", "22": "PI", "23": "CE", "24": "RN", "25": "PB", "26": "PE", "27": "AL", "28": "SE", "29": "BA",
    "31": "MG", "32": "ES", "33": "RJ", "35": "SP", "41": "PR", "42": "SC", "43": "RS",
    "50": "MS", "51": "MT", "52": "GO", "53": "DF",
}  # fmt: skip
# Nenhum nome que um manifesto dê pode sair da pasta do dia.
CAMINHO = re.compile(r"(uf=[0-9]{2}/)?(mun=[0-9]{6}/)?[a-z0-9_=-][a-z0-9._=-]*")
TENTATIVAS = 4


class Problema(Exception):
    """O que foi lido não confere, ou não pôde ser lido: a mensagem diz o que fazer."""


class NaoExiste(Exception):
    """O objeto não está no bucket."""


class Falta(Problema):
    """Um manifesto cita um objeto que não está no bucket."""


# --- ler do bucket -------------------------------------------------------------------------------


class Bucket:
    """GETs simples. O que pode mudar é pedido com If-None-Match: a resposta 304 quer dizer "sem mudanças"."""

    def __init__(self, endereco: str, pasta: Path) -> None:
        self.endereco = endereco.rstrip("/")
        self.guardados = pasta / ".guardados"
        self.pedidos = {"200": 0, "304": 0}

    def ler(self, chave: str, etag: str = ""):
        """Corpo e ETag de um objeto; None quando não mudou desde `etag`. Falha passageira é tentada de novo."""
        pedido = urllib.request.Request(f"{self.endereco}/{urllib.parse.quote(chave, safe='/-_.~')}")
        if etag:
            pedido.add_header("If-None-Match", etag)
        for tentativa in range(TENTATIVAS):
            try:
                with urllib.request.urlopen(pedido, timeout=60) as resposta:
                    corpo = resposta.read()
                self.pedidos["200"] += 1
                return corpo, resposta.headers.get("ETag") or ""
            except urllib.error.HTTPError as erro:
                erro.close()
                if erro.code == 304:
                    self.pedidos["304"] += 1
                    return None
                if erro.code in (403, 404, 410):
                    raise NaoExiste(f"{chave} (HTTP {erro.code})") from None
                motivo = f"HTTP {erro.code}"
            except urllib.error.URLError as erro:
                if isinstance(erro.reason, FileNotFoundError):
                    raise NaoExiste(chave) from None
                motivo = str(erro.reason)
            except (OSError, http.client.HTTPException) as erro:
                motivo = f"{type(erro).__name__} {erro}"
            time.sleep(0.5 * 2**tentativa)
        raise Problema(
            f"{chave} não pôde ser lido em {self.endereco}: {motivo}. Confira o endereço e a rede e rode de novo."
        )

    def mutavel(self, chave: str, estado: dict) -> dict:
        """Lê um JSON que pode mudar (catálogo, índice, head), do bucket ou, se não mudou, da cópia guardada."""
        guardado = self.guardados / chave.replace("/", "_")
        lido = self.ler(chave, estado["etags"].get(chave, "") if guardado.exists() else "")
        if lido is not None:
            gravar(guardado, lido[0])
            estado["etags"][chave] = lido[1]
        return json.loads(guardado.read_bytes())

    def conferido(self, chave: str, sha256: str, tamanho: int) -> bytes:
        """Lê um objeto que nunca muda e confere tamanho e sha256 com o que diz o manifesto acima dele."""
        try:
            corpo, _ = self.ler(chave)
        except NaoExiste as erro:
            raise Falta(f"Falta no bucket: {erro}. Um manifesto cita este arquivo; avise quem publica.") from None
        achado = hashlib.sha256(corpo).hexdigest()
        if len(corpo) != tamanho or achado != sha256.replace("sha256:", ""):
            raise Problema(
                f"{chave} não confere: {len(corpo)} bytes, sha256 {achado}. Rode de novo; se repetir, avise quem publica."
            )
        return corpo


def gravar(arquivo: Path, corpo: bytes) -> None:
    """Grava inteiro ou não grava: primeiro ao lado, depois troca o nome."""
    arquivo.parent.mkdir(parents=True, exist_ok=True)
    ao_lado = arquivo.with_name(arquivo.name + ".novo")
    ao_lado.write_bytes(corpo)
    ao_lado.replace(arquivo)


def texto_de(arquivo: Path) -> str:
    """O texto de um arquivo, com as quebras de linha como são."""
    return arquivo.read_bytes().decode("utf-8")


# --- um dia --------------------------------------------------------------------------------------


class Dia:
    """Um dia de uma operação (total ou residentes) de uma UF."""

    def __init__(self, bucket: Bucket, pasta: Path, estado: dict, dia: str, visao: str, uf: str) -> None:
        self.bucket, self.estado, self.dia, self.visao, self.uf = bucket, estado, dia, visao, uf
        self.pasta = pasta / dia
        self.csv = self.pasta / f"imunizacao-{visao}-{UFS[uf].lower()}_{dia}.csv"
        self.retirados = self.pasta / "removed.csv"

    def atualizar(self) -> str:
        """Traz o dia para a revisão em vigor e diz o que fez."""
        try:
            head = self.bucket.mutavel(f"v1/days/{self.dia}/head.json", self.estado)
        except NaoExiste:
            return "pendente: ainda não publicado (não é dia vazio)"
        tenho = self.estado["dias"].get(self.dia, {"revisao": 0})
        retirada = head.get("withdrawnUfs", {}).get(self.uf)
        if head["state"] == "withdrawn" or retirada:
            motivo = retirada["reason"] if retirada else head["history"][-1].get("note", "")
            self.csv.unlink(missing_ok=True)
            # removed.csv é do dia, não da UF: só sai com o dia inteiro, ou as doses que ele cancela nos dias anteriores voltariam a valer.
            if head["state"] == "withdrawn":
                self.retirados.unlink(missing_ok=True)
            elif tenho["revisao"] != head["revision"] or not self.retirados.exists():
                self.baixar_retirados(head["current"], self.descrever_dia(head["current"]))
            self.estado["dias"][self.dia] = {"revisao": head["revision"], "situacao": "retirado"}
            return f"retirado: {motivo}"
        if tenho["revisao"] == head["revision"] and tenho.get("situacao") != "retirado" and self.inteiro(tenho):
            return f"revisão {head['revision']}, sem mudanças"
        dia = self.descrever_dia(head["current"])
        recurso = self.descrever(head["current"], dia)
        como = "baixado"
        if recurso is None:
            # Nenhuma dose do dia tem residência: não há arquivos de residentes.
            self.csv.unlink(missing_ok=True)
            como = "sem doses com residência"
        else:
            novo = self.pela_diferenca(head, tenho, recurso["hash"])
            if novo is not None:
                como = f"revisão {tenho['revisao']} mais diferença"
            elif self.inteiro({"sha256": recurso["hash"].replace("sha256:", "")}):
                como = "conteúdo igual"
            else:
                pasta_uf = head["current"]["path"].rpartition("/")[0] + f"/uf={self.uf}/"
                novo = self.bucket.conferido(pasta_uf + recurso["path"], recurso["hash"], recurso["bytes"])
            if novo is not None:
                gravar(self.csv, novo)
        # removed.csv e outcome.json não fazem parte da diferença: vêm sempre do conteúdo novo.
        self.baixar_retirados(head["current"], dia)
        self.estado["dias"][self.dia] = {
            "revisao": head["revision"],
            "contentId": head["current"]["contentId"],
            "situacao": head["state"],
            "sha256": recurso["hash"].replace("sha256:", "") if recurso else "",
        }
        linhas = recurso["rnds:rows"] if recurso else 0
        return f"revisão {head['revision']} ({head['history'][-1]['reason']}), {linhas} doses, {como}"

    def descrever_dia(self, atual: dict) -> dict:
        """day.json, conferido com o head."""
        raiz = atual["path"]
        if raiz != f"v1/days/{self.dia}/c-{atual['contentId']}/day.json":
            raise Problema(f"head.json de {self.dia} aponta para fora do dia. Não use este dia e avise quem publica.")
        return json.loads(self.bucket.conferido(raiz, atual["sha256"], atual["bytes"]))

    def descrever(self, atual: dict, dia: dict):
        """O recurso desta operação no descritor da UF, conferido com day.json; None quando o dia não tem residentes."""
        da_uf = next(uf for uf in dia["files"]["ufs"] if uf["uf"] == self.uf)
        chave = f"{atual['path'].rpartition('/')[0]}/uf={self.uf}/datapackage.json"
        pacote = json.loads(self.bucket.conferido(chave, da_uf["sha256"], da_uf["bytes"]))
        nome = f"imunizacao-{self.visao}-{UFS[self.uf].lower()}"
        recurso = next((um for um in pacote["resources"] if um["name"] == nome), None)
        if recurso is None and self.visao == "total":
            raise Problema(f"O descritor {chave} não cita o arquivo da UF. Não use este dia e avise quem publica.")
        if recurso is not None and not CAMINHO.fullmatch(recurso["path"]):
            raise Problema(
                f"O descritor {chave} cita um caminho que não é permitido. Não use este dia e avise quem publica."
            )
        return recurso

    def baixar_retirados(self, atual: dict, dia: dict) -> None:
        """O removed.csv do conteúdo em vigor."""
        dito = dia["files"]["removed"]
        chave = f"{atual['path'].rpartition('/')[0]}/removed.csv"
        gravar(self.retirados, self.bucket.conferido(chave, dito["sha256"], dito["bytes"]))

    def inteiro(self, tenho: dict) -> bool:
        """Se a cópia local ainda é o que foi baixado."""
        if not tenho.get("sha256"):
            return tenho.get("situacao") is not None
        return self.csv.exists() and hashlib.sha256(self.csv.read_bytes()).hexdigest() == tenho["sha256"]

    # Passar da revisão n para a n + 1 sem baixar tudo.

    def pela_diferenca(self, head: dict, tenho: dict, esperado: str):
        """O arquivo da revisão em vigor, feito da cópia local e das diferenças; None quando é preciso baixar o dia inteiro."""
        if not tenho.get("sha256") or not self.inteiro(tenho):
            return None
        passos = [entrada for entrada in head["history"] if entrada["revision"] > tenho["revisao"]]
        texto = texto_de(self.csv)
        conteudo = tenho["contentId"]
        for entrada in passos:
            if entrada["contentId"] == conteudo:
                continue  # Mesmo conteúdo com outra entrada no histórico: nada a fazer.
            diferenca = entrada.get("diff")
            if diferenca is None or entrada.get("reconciliation", {}).get("verdict") == "gap":
                return None
            if self.visao == "residentes" or self.uf in diferenca["ufs"]:
                arquivos = self.baixar_diferenca(entrada)
                novo = aplicar(texto, arquivos, self.coluna, self.uf) if arquivos is not None else None
                if novo is None:
                    return None
                texto = novo
            conteudo = entrada["contentId"]
        corpo = texto.encode("utf-8")
        # O resultado é igual, byte a byte, ao arquivo publicado. Se não for, baixa-se o dia inteiro.
        return corpo if hashlib.sha256(corpo).hexdigest() == esperado.replace("sha256:", "") else None

    @property
    def coluna(self) -> str:
        """A coluna que diz em que arquivo a linha está."""
        return "co_municipio_estabelecimento" if self.visao == "total" else "co_municipio_paciente"

    def baixar_diferenca(self, entrada: dict):
        """Os três arquivos da diferença, conferidos com o histórico; None quando foram apagados."""
        diferenca = entrada["diff"]
        if "purgedAt" in diferenca:
            return None
        inicio = f"v1/days/{self.dia}/diff/{entrada['supersedes']}-{entrada['revision']}-"
        if not re.fullmatch(re.escape(inicio) + "[0-9a-f]{64}", diferenca["path"]):
            raise Problema(
                f"A diferença da revisão {entrada['revision']} de {self.dia} está fora do dia. Avise quem publica."
            )
        arquivos = {}
        for nome in ("added", "changed", "removed"):
            dito = diferenca["files"][nome]
            try:
                corpo = self.bucket.conferido(f"{diferenca['path']}/{nome}.csv", dito["sha256"], dito["bytes"])
            except Falta:
                return None
            arquivos[nome] = corpo.decode("utf-8")
        return arquivos


def linhas_de(texto: str):
    """Cabeçalho e linhas de um CSV, cada linha como texto e como valores. Nenhum valor tem quebra de linha."""
    cabecalho, *linhas = texto.split("\n")[:-1]
    valores = csv.reader(linhas, delimiter=";", strict=True)
    return cabecalho, next(csv.reader([cabecalho], delimiter=";")), list(zip(linhas, valores))


def aplicar(texto: str, diferenca: dict, coluna: str, uf: str):
    """Aplica uma diferença ao arquivo de uma UF; None quando as colunas são outras e é preciso baixar o dia inteiro."""
    _, nomes, linhas = linhas_de(texto)
    cabecalho_novo, nomes_novos, incluidas = linhas_de(diferenca["added"])
    if nomes_novos[: len(nomes)] != nomes:
        return None
    # Colunas novas no fim ficam vazias nas linhas que não estão na diferença.
    resto = ";" * (len(nomes_novos) - len(nomes))
    _, nomes_mudou, mudaram = linhas_de(diferenca["changed"])
    _, nomes_saiu, sairam = linhas_de(diferenca["removed"])
    documento, lugar = nomes_novos.index("co_documento"), nomes_novos.index(coluna)
    fora = {valores[nomes_saiu.index("co_documento")] for _, valores in sairam}
    fora |= {valores[nomes_mudou.index("co_documento")] for _, valores in mudaram}
    prontas = [
        (valores[lugar], valores[documento], linha + resto)
        for linha, valores in linhas
        if valores[documento] not in fora
    ]
    # As duas últimas colunas de changed.csv dizem onde a dose estava: não são do arquivo de doses.
    novas = incluidas + [(linha.rsplit(";", 2)[0], valores) for linha, valores in mudaram]
    prontas += [(valores[lugar], valores[documento], linha) for linha, valores in novas if valores[lugar][:2] == uf]
    prontas.sort(key=lambda um: (um[0].encode(), um[1].encode()))
    return "\n".join([cabecalho_novo, *(linha for _, _, linha in prontas)]) + "\n"


# --- o que vale ----------------------------------------------------------------------------------


def consolidar(pasta: Path, dias: list) -> int:
    """Escreve consolidado.csv: as doses que valem hoje.

    Do dia mais novo para o mais velho. Sai a dose cujo documento foi retirado por um dia posterior (removed.csv), ou está num dia posterior
    (o documento mudou: vale a versão nova). Documento é o que vem antes de `-i` em co_documento.
    """
    vistos: set = set()
    partes, colunas = [], []
    for dia in sorted(dias, key=lambda um: um.dia, reverse=True):
        if dia.csv.exists():
            cabecalho, nomes, linhas = linhas_de(texto_de(dia.csv))
            # A versão mais nova do contrato tem todas as colunas das anteriores e talvez mais no fim.
            colunas = colunas or [cabecalho, nomes]
            if colunas[1][: len(nomes)] != nomes:
                raise Problema(
                    f"As colunas de {dia.dia} não são as dos dias mais novos: consolide os períodos em separado."
                )
            resto = ";" * (len(colunas[1]) - len(nomes))
            documento = nomes.index("co_documento")
            do_dia = [(linha, valores[documento].rpartition("-i")[0]) for linha, valores in linhas]
            partes.append([linha + resto for linha, raiz in do_dia if raiz not in vistos])
            vistos.update(raiz for _, raiz in do_dia)
        if dia.retirados.exists():
            _, nomes, retirados = linhas_de(texto_de(dia.retirados))
            vistos.update(valores[nomes.index("co_documento")].rpartition("-i")[0] for _, valores in retirados)
    if not colunas:
        (pasta / "consolidado.csv").unlink(missing_ok=True)
        return 0
    linhas_que_valem = [linha for parte in reversed(partes) for linha in parte]
    gravar(pasta / "consolidado.csv", ("\n".join([colunas[0], *linhas_que_valem]) + "\n").encode("utf-8"))
    return len(linhas_que_valem)


def dias_entre(primeiro: str, ultimo: str) -> list:
    """Os dias do período, com o primeiro e o último."""
    de, ate = date.fromisoformat(primeiro), date.fromisoformat(ultimo)
    if ate < de:
        raise Problema("--ate é antes de --de.")
    return [str(de + timedelta(days=n)) for n in range((ate - de).days + 1)]


def sincronizar(endereco: str, visao: str, uf: str, primeiro: str, ultimo: str, pasta: Path) -> dict:
    """Traz a cópia local para o que está publicado; devolve o que foi feito em cada dia."""
    pasta.mkdir(parents=True, exist_ok=True)
    arquivo = pasta / "estado.json"
    origem = {"endereco": endereco, "visao": visao, "uf": uf}
    estado = (
        json.loads(arquivo.read_text(encoding="utf-8")) if arquivo.exists() else {**origem, "dias": {}, "etags": {}}
    )
    if {nome: estado[nome] for nome in origem} != origem:
        raise Problema(f"A pasta {pasta} guarda outra operação ou outro endereço. Use uma pasta para cada um.")
    bucket = Bucket(endereco, pasta)
    try:
        catalogo = bucket.mutavel("v1/catalog.json", estado)
    except NaoExiste as erro:
        raise Problema(f"Não há catálogo em {endereco}: {erro}. Confira o endereço.") from None
    slug = f"imunizacao-{visao}-{UFS[uf].lower()}"
    if slug not in {operacao["slug"] for operacao in catalogo["operations"]}:
        raise Problema(f"A operação {slug} não é oferecida neste endereço.")
    indices = {mes["month"]: mes["path"] for mes in catalogo["months"]}
    feito, dias = {}, []
    for mes in sorted({dia[:7] for dia in dias_entre(primeiro, ultimo)} & set(indices)):
        linhas = bucket.mutavel(f"v1/months/{mes}/index.json", estado)["days"]
        for dia in [linha["day"] for linha in linhas if primeiro <= linha["day"] <= ultimo]:
            um = Dia(bucket, pasta, estado, dia, visao, uf)
            dias.append(um)
            feito[dia] = um.atualizar()
            # Depois de cada dia: o que for interrompido continua daqui.
            gravar(arquivo, json.dumps(estado, ensure_ascii=False, indent=2).encode("utf-8"))
    gravar(arquivo, json.dumps(estado, ensure_ascii=False, indent=2).encode("utf-8"))
    for dia in dias_entre(primeiro, ultimo):
        feito.setdefault(dia, "pendente: ainda não publicado (não é dia vazio)")
    return {"dias": dict(sorted(feito.items())), "doses": consolidar(pasta, dias), "pedidos": bucket.pedidos}


def main() -> int:
    """Lê as opções e mostra o que foi feito."""
    opcoes = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    opcoes.add_argument("endereco", help="endereço do bucket: http(s)://servidor/bucket ou file:///pasta")
    opcoes.add_argument("--uf", help="código IBGE da UF, por exemplo 53; o mesmo que --operacao imunizacao-total-df")
    opcoes.add_argument("--operacao", help="por exemplo imunizacao-total-df ou imunizacao-residentes-df")
    opcoes.add_argument("--de", required=True, help="primeiro dia, AAAA-MM-DD")
    opcoes.add_argument("--ate", required=True, help="último dia, AAAA-MM-DD")
    opcoes.add_argument("--pasta", type=Path, default=Path("copia"), help="onde fica a cópia (padrão: copia)")
    dito = opcoes.parse_args()
    try:
        achado = re.fullmatch(r"imunizacao-(total|residentes)-([a-z]{2})", dito.operacao or "")
        codigos = {sigla.lower(): codigo for codigo, sigla in UFS.items()}
        if achado and achado[2] in codigos:
            visao, uf = achado[1], codigos[achado[2]]
        elif not dito.operacao and dito.uf in UFS:
            visao, uf = "total", dito.uf
        else:
            raise Problema(
                "Diga --uf com o código IBGE da UF (por exemplo 53) ou --operacao (por exemplo imunizacao-total-df)."
            )
        feito = sincronizar(dito.endereco, visao, uf, dito.de, dito.ate, dito.pasta)
    except (Problema, NaoExiste, ValueError, KeyError) as erro:
        print(f"{type(erro).__name__}: {erro}", file=sys.stderr)
        return 1
    for dia, texto in feito["dias"].items():
        print(f"{dia}  {texto}")
    print(f"{feito['doses']} doses valem; veja {dito.pasta / 'consolidado.csv'}")
    print(f"{feito['pedidos']['200']} objetos baixados, {feito['pedidos']['304']} sem mudanças")
    print("A assinatura não foi conferida: para isso, `python -m imunizacao verify`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
