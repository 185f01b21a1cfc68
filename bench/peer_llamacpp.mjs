// llama.cpp (npm node-llama-cpp, CPU) as a worker of common.py: node peer_llamacpp.mjs FILE.gguf THREADS
// lines: prefill N | decode N (one sequence)  ->  {"seconds": S, "tokens": N}
// Greedy sampling in the loop, as its users have it.  QL_NODE_MODULES names the directory that holds node-llama-cpp.
import path from "node:path";
import readline from "node:readline";
import {pathToFileURL} from "node:url";

const entry = path.join(process.env.QL_NODE_MODULES, "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);
const threads = Number(process.argv[3]);
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: threads});
const model = await llama.loadModel({modelPath: process.argv[2]});
const context = await model.createContext({contextSize: 2048, batchSize: 512, sequences: 1, threads: {ideal: threads, min: threads}});
const sequence = context.getSequence();
const random = (n) => Array.from({length: n}, () => 3 + Math.floor(Math.random() * 40000));
console.log(JSON.stringify({ready: true}));

for await (const line of readline.createInterface({input: process.stdin})) {
    const [what, count] = line.split(" ");
    const n = Number(count);
    await sequence.clearHistory();
    let begin = performance.now();
    let tokens = 0;
    if (what === "prefill") {
        for await (const _ of sequence.evaluate(random(n), {temperature: 0}))
            break;
        tokens = n;
    } else {
        let first = true;
        for await (const _ of sequence.evaluate(random(16), {temperature: 0, yieldEogToken: true})) {
            if (first) {
                first = false;
                begin = performance.now();
            } else if (++tokens >= n)
                break;
        }
    }
    console.log(JSON.stringify({seconds: (performance.now() - begin) / 1000, tokens}));
}
await model.dispose();
process.exit(0);
