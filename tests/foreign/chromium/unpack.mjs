// Unpacks the browser, the libraries and the fonts that it brings into TMPDIR.
import { fileURLToPath } from 'node:url';
import chromium, { inflate } from '@sparticuz/chromium';

const bin = fileURLToPath(new URL('./node_modules/@sparticuz/chromium/bin/', import.meta.url));
await inflate(`${bin}al2023.tar.br`);
await chromium.executablePath();
