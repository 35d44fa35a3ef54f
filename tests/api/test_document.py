"""The OpenAPI document and the page made from it."""

import re
import subprocess
import sys

import httpx
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conftest import LiveAPI

METHODS = ("get", "post", "put", "patch", "delete")


def document(client: httpx.Client) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return dict(answer.json())


def test_the_document_is_valid_openapi_3_1(client: httpx.Client) -> None:
    spec = document(client)

    assert str(spec["openapi"]).startswith("3.1")
    assert [str(each) for each in OpenAPIV31SpecValidator(spec).iter_errors()] == []


def test_every_route_is_in_the_document_and_the_other_way_round(client: httpx.Client, api: LiveAPI) -> None:
    spec = document(client)
    served = {
        (method.lower(), re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint.partition(".")[0] != "ui" and rule.rule not in ("/docs", "/openapi.json")
    }

    assert {(method, path) for path, item in spec["paths"].items() for method in item} == served


def test_every_operation_says_what_can_go_wrong_and_who_may_ask(client: httpx.Client) -> None:
    spec = document(client)

    assert spec["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert spec["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, item in spec["paths"].items():
        for method, operation in item.items():
            statuses = set(operation["responses"])
            is_public = path in ("/healthz", "/readyz")
            assert (operation.get("security") == [{}]) is is_public
            assert operation["summary"]
            if not is_public:
                assert {"401", "503"} <= statuses, (method, path)
            if "{" in path:
                assert "404" in statuses, (method, path)
            for status, response in operation["responses"].items():
                assert "x-request-id" in response["headers"]
                if status >= "400" and path != "/readyz":
                    # Anthropic's clients read errors of another form.
                    form = "MessagesError" if path.startswith("/v1/messages") else "ErrorBody"
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": f"#/components/schemas/{form}"}, (method, path, status)


def test_unknown_fields_are_refused_in_the_document_too(client: httpx.Client) -> None:
    schemas = document(client)["components"]["schemas"]

    assert schemas["JobRequest"]["additionalProperties"] is False
    assert schemas["JobFormat"]["additionalProperties"] is False
    assert "example" in schemas["JobRequest"] and "example" in schemas["JobObject"]


def test_the_page_names_every_operation_and_asks_nothing_of_anybody_else(client: httpx.Client) -> None:
    answer = client.get("/docs")

    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in answer.text
    assert re.findall(r"""(?:src|href|url\(|@import)\s*=?\s*["']?(?:https?:)?//""", answer.text) == []
    for path, item in document(client)["paths"].items():
        assert path in answer.text
        for method in METHODS:
            if method in item:
                assert f'id="{item[method]["operationId"]}"' in answer.text


def test_links_of_the_page_lead_somewhere(client: httpx.Client) -> None:
    page = client.get("/docs").text

    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(re.findall(r'id="([^"]+)"', page))


def test_the_root_leads_to_the_page(client: httpx.Client) -> None:
    assert client.get("/", follow_redirects=True).url.path == "/docs"


def test_the_api_never_loads_a_model_library() -> None:
    code = (
        "import sys, api.app\n"
        "heavy = {'torch', 'transformers', 'ctranslate2', 'sentencepiece', 'workers'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True).stderr == ""
