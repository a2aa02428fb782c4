// Requests to this server. The key lives here, in memory, as long as the page is open.
let key = "";

export function useKey(text) {
  key = text;
}

export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, credentials: "omit" });
  if (response.ok) return response;
  const found = await response.json().catch(() => ({}));
  const error = new Error(found.error?.message ?? `the server answered ${response.status}`);
  error.status = response.status;
  throw error;
}

// The JSON events of a stream, one by one.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}
