#!/usr/bin/env node
// A plain Node client of kvasird: streams one generation over gRPC. An example to follow.
//
//   npm install @grpc/grpc-js @grpc/proto-loader
//   node generate.mjs "Once upon a time"
//
// Environment: KVASIR_SERVER (default 127.0.0.1:50051), KVASIR_API_KEY_FILE and KVASIR_TLS_CA, as for the command line;
// KVASIR_PROTO: the folder that holds kvasir/v1 (default: that of this repository).
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { credentials, loadPackageDefinition, Metadata, status } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const protoFolder = process.env.KVASIR_PROTO || fileURLToPath(new URL("../../proto", import.meta.url));
const definition = loadSync("kvasir/v1/generation.proto", {
  includeDirs: [protoFolder],
  keepCase: true,
  longs: Number,
  oneofs: true,
});
const { GenerationService } = loadPackageDefinition(definition).kvasir.v1;

const server = process.env.KVASIR_SERVER || "127.0.0.1:50051";
const ca = process.env.KVASIR_TLS_CA;
const isHere = /^(unix:|127\.|\[::1\]|localhost(:|$))/.test(server);
const client = new GenerationService(
  server,
  ca ? credentials.createSsl(readFileSync(ca)) : credentials.createInsecure(),
  // No proxy reaches this machine for us.
  { "grpc.enable_http_proxy": isHere ? 0 : 1, "grpc.keepalive_time_ms": 30000 },
);
const metadata = new Metadata();
if (process.env.KVASIR_API_KEY_FILE) {
  const lines = readFileSync(process.env.KVASIR_API_KEY_FILE, "utf8").split("\n").map((line) => line.trim());
  metadata.set("authorization", `Bearer ${lines.find((line) => line && !line.startsWith("#"))}`);
}

const call = client.Generate(
  { text: process.argv[2] ?? "Once upon a time", sampling: { temperature: 0 }, stopping: { max_tokens: 40 } },
  metadata,
  { deadline: Date.now() + 60000 },
);
// Cancelling frees the request's KV cache within one step of the engine.
process.on("SIGINT", () => call.cancel());
call.on("data", ({ event, delta, final }) => {
  if (event === "delta") process.stdout.write(delta.text);
  if (event === "final") console.error(`\n[KV cache peak ${final.usage.kv_bytes_peak} bytes]`);
});
call.on("error", (error) => {
  console.error(`${status[error.code]}: ${error.details}`);
  process.exitCode = error.code === status.CANCELLED ? 130 : 1;
  client.close();
});
call.on("end", () => client.close());
