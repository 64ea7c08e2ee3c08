// What people do with node: files, worker threads, children, cryptography, compression, streams, timers.
"use strict";
const assert = require("assert");
const { execFileSync, spawn } = require("child_process");
const crypto = require("crypto");
const fs = require("fs");
const os = require("os");
const path = require("path");
const { pipeline } = require("stream/promises");
const zlib = require("zlib");
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");

if (!isMainThread) {
	const shared = new Int32Array(workerData.shared);
	for (let i = 0; i < 10000; i++) Atomics.add(shared, 0, 1);
	let sum = 0;
	for (let i = workerData.from; i < workerData.to; i++) sum += i * i % 7;
	parentPort.postMessage(sum);
	return;
}

async function files(dir) {
	const name = path.join(dir, "data");
	await fs.promises.writeFile(name, Buffer.alloc(300000, "oxv "));
	await fs.promises.appendFile(name, "end\n");
	const stat = await fs.promises.stat(name);
	await fs.promises.rename(name, name + ".2");
	await fs.promises.mkdir(path.join(dir, "a/b/c"), { recursive: true });
	await fs.promises.symlink("../data.2", path.join(dir, "a/link"));
	const tail = (await fs.promises.readFile(path.join(dir, "a/link"), "utf8")).slice(-8);
	console.log("files", stat.size, JSON.stringify(tail), (await fs.promises.readdir(dir)).sort().join());
	await pipeline(fs.createReadStream(name + ".2"), zlib.createGzip(), fs.createWriteStream(name + ".gz"));
	const back = zlib.gunzipSync(fs.readFileSync(name + ".gz"));
	console.log("gzip", back.length, back.equals(fs.readFileSync(name + ".2")), zlib.brotliDecompressSync(zlib.brotliCompressSync("brotli")).toString());
}

async function workers() {
	const shared = new SharedArrayBuffer(4);
	const run = (from, to) => new Promise((resolve, reject) => {
		const worker = new Worker(__filename, { workerData: { shared, from, to } });
		worker.on("message", resolve);
		worker.on("error", reject);
	});
	const sums = await Promise.all([run(0, 50000), run(50000, 100000), run(100000, 150000), run(150000, 200000)]);
	console.log("workers", sums.join(), new Int32Array(shared)[0]);
}

async function children() {
	console.log("child", execFileSync("/bin/sh", ["-c", "echo $1; exit 0", "sh", "an argument"]).toString().trim());
	try {
		execFileSync("/bin/sh", ["-c", "echo lost >&2; exit 7"], { stdio: "pipe" });
	} catch (error) {
		console.log("child fails", error.status, error.stderr.toString().trim());
	}
	const cat = spawn("/bin/sh", ["-c", "while read line; do echo \"<$line>\"; done"]);
	const output = [];
	cat.stdout.on("data", data => output.push(data));
	cat.stdin.end("one\ntwo\n");
	const code = await new Promise(resolve => cat.on("close", resolve));
	console.log("child talks", code, Buffer.concat(output).toString().trim().replace("\n", " "));
	const sleeper = spawn("/bin/sh", ["-c", "read forever"]);
	sleeper.kill("SIGTERM");
	console.log("child killed", await new Promise(resolve => sleeper.on("exit", (_, signal) => resolve(signal))));
}

function cryptography() {
	const key = crypto.scryptSync("password", "salt", 32, { N: 1024 });
	const cipher = crypto.createCipheriv("aes-256-gcm", key, Buffer.alloc(12));
	const secret = Buffer.concat([cipher.update("secret"), cipher.final()]);
	console.log("crypto", crypto.createHash("sha512").update("oxv").digest("hex").slice(0, 32), secret.toString("hex"), cipher.getAuthTag().toString("hex"));
	const { privateKey, publicKey } = crypto.generateKeyPairSync("ed25519");
	console.log("signature", crypto.verify(null, Buffer.from("text"), publicKey, crypto.sign(null, Buffer.from("text"), privateKey)), crypto.randomBytes(16).length);
}

async function main() {
	const dir = fs.mkdtempSync(path.join(os.tmpdir(), "oxv-node-"));
	try {
		await files(dir);
		await workers();
		await children();
		cryptography();
		const begin = process.hrtime.bigint();
		await new Promise(resolve => setTimeout(resolve, 20));
		assert(process.hrtime.bigint() - begin >= 19000000n);
		console.log("memory", process.memoryUsage().rss > 10e6, os.cpus().length > 0, os.totalmem() > os.freemem());
	} finally {
		fs.rmSync(dir, { recursive: true });
	}
	process.exitCode = 3;
}

main();
