// Greedy tokens by llama.cpp (node-llama-cpp): node others_generate.mjs MODEL.gguf LORA.gguf|- N OUT.json [THREADS] < [[ids]…]
// OUT: [[ids]…], at most N each; a final end-of-generation token is the last id.  QL_NODE_MODULES: where node-llama-cpp is.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const entry = path.join(process.env.QL_NODE_MODULES, "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);
const [file, lora, count, out, threads = "2"] = process.argv.slice(2);
const prompts = JSON.parse(fs.readFileSync(0, "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({
    contextSize: 512, sequences: 1, threads: {ideal: Number(threads), min: 1},
    lora: lora === "-" ? undefined : {adapters: [{filePath: lora, scale: 1}]}
});
const sequence = context.getSequence();
const result = [];
for (const ids of prompts) {
    const tokens = [];
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        tokens.push(Number(token));
        if (tokens.length >= Number(count) || model.isEogToken(token))
            break;
    }
    result.push(tokens);
}
fs.writeFileSync(out, JSON.stringify(result));
await model.dispose();
process.exit(0);
