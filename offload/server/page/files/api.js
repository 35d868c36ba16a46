// What the server is asked: one function for each request. Errors are Errors whose message is for people.

const key = () => document.getElementById("api-key").value.trim();

function headers(more = {}) {
  return key() ? { ...more, authorization: `Bearer ${key()}` } : more;
}

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.error?.message ?? `The server answered ${response.status} ${response.statusText}.`);
  }
  return response;
}

export const get = async (path) => (await send(path)).json();

// Chunks of a chat completion as they come. Ends with an error unless the server said that it was done.
export async function* chat(body, signal) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, signal };
  const response = await send("/v1/chat/completions", { ...options, body: JSON.stringify(body) });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof TypeError) throw new Error("The connection was lost before the answer was complete.");
    throw error;
  }
  throw new Error("The connection ended before the answer was complete.");
}

// The data of server-sent events, one string each.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}
