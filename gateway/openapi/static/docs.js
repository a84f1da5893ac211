// Shows /openapi.json and lets every method be tried. No framework, nothing loaded from elsewhere.

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

let specification;

const resolve = (schema) =>
  schema?.$ref ? specification.components.schemas[schema.$ref.split("/").pop()] : schema ?? {};

const typeOf = (schema) => {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `${typeOf(schema.items)}[]`;
  return schema.format ? `${schema.type} (${schema.format})` : schema.type ?? "";
};

const example = (schema, depth = 0) => {
  const own = resolve(schema);
  if (own.enum) return own.enum.find((name) => !name.endsWith("_UNSPECIFIED")) ?? own.enum[0];
  if (own.type === "array") return depth > 3 ? [] : [example(own.items, depth + 1)];
  if (own.type === "object") {
    if (depth > 3) return {};
    const names = depth ? own.required ?? [] : Object.keys(own.properties ?? {});
    return Object.fromEntries(names.map((name) => [name, example(own.properties[name], depth + 1)]));
  }
  if (own.type === "boolean") return false;
  if (own.type === "integer" || own.type === "number") return own.minimum ?? 0;
  if (own.format === "int64" || own.format === "uint64") return "0";
  return "";
};

const fieldTable = (schema) => {
  const own = resolve(schema);
  const rows = Object.entries(own.properties ?? {}).map(([name, property]) =>
    element("tr", {},
      element("td", {}, element("code", { textContent: name }), own.required?.includes(name) ? " *" : ""),
      element("td", { textContent: typeOf(property) }),
      element("td", { textContent: property.description ?? resolve(property).description ?? "" })));
  if (!rows.length) return element("p", { className: "quiet", textContent: "No fields." });
  return element("table", {}, element("tbody", {}, ...rows));
};

const csrf = () => document.cookie.match(/(?:^|; )(?:__Host-)?tidebook_csrf=([^;]*)/)?.[1];

const send = async (method, path, parameters, inputs, body, output) => {
  let url = path;
  const query = new URLSearchParams();
  for (const parameter of parameters) {
    const value = inputs.get(parameter.name).value;
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value) for (const one of parameter.schema.type === "array" ? value.split(",") : [value]) query.append(parameter.name, one);
  }
  if ([...query].length) url += `?${query}`;
  const headers = {};
  const token = document.getElementById("token").value;
  if (token) headers.Authorization = `Bearer ${token}`;
  else if (method !== "get" && csrf()) headers["X-CSRF-Token"] = csrf();
  output.textContent = "";
  try {
    const answer = await fetch(url, { method: method.toUpperCase(), headers, body: body?.value });
    output.textContent = `${answer.status} ${answer.statusText}\n`;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let piece = await reader.read(); !piece.done && text.length < 100000; piece = await reader.read()) {
      text += piece.value;
      output.textContent = `${answer.status} ${answer.statusText}\n${text}`;
    }
    await reader.cancel();
    try { output.textContent = `${answer.status} ${answer.statusText}\n${JSON.stringify(JSON.parse(text), null, 2)}`; } catch { /* lines of a stream stay as they came */ }
  } catch (error) {
    output.textContent = String(error);
  }
};

const operation = (method, path, details) => {
  const parameters = details.parameters ?? [];
  const inputs = new Map();
  const content = element("div", {}, element("p", { textContent: details.description }));
  for (const parameter of parameters) {
    const input = element("input", { name: parameter.name });
    inputs.set(parameter.name, input);
    content.append(element("label", {},
      element("code", { textContent: parameter.name }), parameter.required ? " * " : " ",
      element("span", { className: "quiet", textContent: `${typeOf(parameter.schema)}. ${parameter.description}` }), input));
  }
  let body;
  const schema = details.requestBody?.content["application/json"].schema;
  if (schema) {
    body = element("textarea", { rows: 8, spellcheck: false, value: JSON.stringify(example(schema), null, 2) });
    body.setAttribute("aria-label", "Body");
    content.append(element("h3", { textContent: "Body" }), fieldTable(schema), body);
  }
  const output = element("pre", { hidden: true });
  output.setAttribute("aria-live", "polite");
  const button = element("button", { type: "button", textContent: "Send" });
  button.addEventListener("click", () => {
    output.hidden = false;
    void send(method, path, parameters, inputs, body, output);
  });
  content.append(element("p", {}, button), output,
    element("h3", { textContent: "Answer" }), fieldTable(details.responses["200"].content["application/json"].schema));
  if (!details.security.length) content.append(element("p", { className: "quiet", textContent: "Needs no token." }));
  return element("details", {},
    element("summary", {},
      element("span", { className: `method ${method}`, textContent: method.toUpperCase() }),
      element("code", { textContent: path }), " ", element("span", { textContent: details.summary })),
    content);
};

const show = () => {
  const wanted = document.getElementById("find").value.toLowerCase();
  const sections = specification.tags.map((tag) => {
    const found = [];
    for (const [path, methods] of Object.entries(specification.paths))
      for (const [method, details] of Object.entries(methods))
        if (details.tags.includes(tag.name) && `${method} ${path} ${details.description}`.toLowerCase().includes(wanted))
          found.push(operation(method, path, details));
    if (!found.length) return "";
    return element("section", {},
      element("h2", { textContent: tag.name }), element("p", { className: "quiet", textContent: tag.description }), ...found);
  });
  document.getElementById("operations").replaceChildren(...sections);
};

specification = await (await fetch("/openapi.json")).json();
document.getElementById("about").textContent = specification.info.description;
document.getElementById("find").addEventListener("input", show);
show();
