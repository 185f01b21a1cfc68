// Token ids by llama.cpp: node tok_llamacpp.mjs FILE.gguf TEXTS.json OUT.json; TEXTS is ["text", …], OUT is {"plain": [[ids]…], "special": [[ids]…]}
// plain: special tokens in the text are text; special: they are recognised.  No BOS is added by either.
// QL_NODE_MODULES names the directory that holds node-llama-cpp.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const entry = path.join(process.env.QL_NODE_MODULES, "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);

const texts = JSON.parse(fs.readFileSync(process.argv[3], "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: process.argv[2], vocabOnly: true});
const out = {plain: [], special: []};
for (const text of texts) {
    out.plain.push(model.tokenize(text, false).map(Number));
    out.special.push(model.tokenize(text, true).map(Number));
}
fs.writeFileSync(process.argv[4], JSON.stringify(out));
await model.dispose();
process.exit(0);
