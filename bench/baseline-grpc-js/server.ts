// The baseline of `npm run bench` in Node: grpc-js and proto-loader as they come, an answer of two fixed headers to the request's headers
// (--headers-only) or to its whole body, which it parses as JSON. It decides nothing.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { loadPackageDefinition, Server, ServerCredentials, type ServerDuplexStream, type ServiceClientConstructor, status } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { HealthImplementation } from 'grpc-health-check';

interface Request {
  readonly request_headers?: { readonly end_of_stream?: boolean };
  readonly request_body?: { readonly body?: Buffer; readonly end_of_stream?: boolean };
}

const { values: given } = parseArgs({
  options: {
    'headers-only': { type: 'boolean', default: false },
    cluster: { type: 'string', default: 'chat' },
    endpoint: { type: 'string', default: '' },
  },
});

const header = (key: string, value: string): object => ({
  header: { key, raw_value: Buffer.from(value) },
  append_action: 'OVERWRITE_IF_EXISTS_OR_ADD',
});
const answer = {
  clear_route_cache: true,
  header_mutation: { set_headers: [header('x-fairlead-cluster', given.cluster), header('x-gateway-destination-endpoint', given.endpoint)] },
};

function process_(call: ServerDuplexStream<Request, object>): void {
  const pieces: Buffer[] = [];
  call.on('data', ({ request_headers: headers, request_body: piece }: Request) => {
    if (headers !== undefined) {
      call.write({ request_headers: given['headers-only'] || headers.end_of_stream === true ? { response: answer } : {} });
    } else if (piece !== undefined) {
      if (piece.body !== undefined) pieces.push(piece.body);
      if (piece.end_of_stream !== true) {
        call.write({ request_body: {} });
        return;
      }
      const body = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
      const { model } = JSON.parse(body?.toString('utf8') ?? '') as { model?: unknown };
      if (typeof model !== 'string') call.emit('error', { code: status.INVALID_ARGUMENT, details: 'the body names no model' });
      else call.write({ request_body: { response: answer } });
    }
  });
  call.on('end', () => call.end());
  // Envoy is done with the stream and has reset it.
  call.on('error', () => undefined);
}

const protos = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../protos');
const definition = loadSync('envoy/service/ext_proc/v3/external_processor.proto', { keepCase: true, enums: String, oneofs: true, includeDirs: [protos] });
const loaded = loadPackageDefinition(definition) as unknown as { envoy: { service: { ext_proc: { v3: { ExternalProcessor: ServiceClientConstructor } } } } };
const server = new Server();
server.addService(loaded.envoy.service.ext_proc.v3.ExternalProcessor.service, { Process: process_ });
new HealthImplementation({ readiness: 'SERVING' }).addToServer(server);
server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  // What the benchmark waits for.
  process.stdout.write(`listening ${port}\n`);
});
process.once('SIGTERM', () => server.forceShutdown());
