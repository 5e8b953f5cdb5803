// node validate.mjs FILE: what AsyncAPI's parser finds wrong with a document; fails if
// there is an error or a warning. Hints are taste.
import { readFileSync } from 'node:fs';
import { Parser } from '@asyncapi/parser';

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
const faults = diagnostics.filter((d) => d.severity <= 1); // 0: error, 1: warning
for (const d of faults) console.log(`${d.path.join('/')}: ${d.message} (${d.code})`);
if (!document || faults.length > 0) process.exit(1);
console.log(`valid: ${document.operations().all().length} operations, ${document.channels().all().length} channels`);
