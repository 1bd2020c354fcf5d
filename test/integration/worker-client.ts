import { type ClientDuplexStream, type ClientWritableStream, Client, credentials } from '@grpc/grpc-js';
import { BodySendMode, metadataString, type ProcessingRequest, type ProcessingResponse, type StreamAccessLogsMessage, toStruct } from '../../src/extproc/messages.ts';
import { accessLogService, decodeProcessingResponse, encodeProcessingRequest, externalProcessorService } from '../../src/extproc/proto.ts';

/** What a worker said to a request: where it goes, and its lease; or the status of a refusal. */
export type Said = { readonly address: string; readonly lease: string; readonly refused?: undefined } | { readonly refused: number };

/** Speaks to one worker as Envoy would. */
export class WorkerClient {
  readonly #client: Client;
  readonly #log: ClientWritableStream<StreamAccessLogsMessage>;

  constructor(address: string) {
    this.#client = new Client(address, credentials.createInsecure(), { 'grpc.initial_reconnect_backoff_ms': 50, 'grpc.max_reconnect_backoff_ms': 200 });
    const { path, requestSerialize, responseDeserialize } = accessLogService.StreamAccessLogs;
    this.#log = this.#client.makeClientStreamRequest(path, requestSerialize, responseDeserialize, () => {});
    this.#log.on('error', () => {});
  }

  /** Has a request decided on whose headers tell all. Rejects where the stream breaks. */
  decide(headers: Readonly<Record<string, string>>): Promise<Said> {
    const call = this.open();
    return new Promise((resolve, reject) => {
      call.on('error', reject);
      call.on('data', (response: ProcessingResponse) => {
        call.end();
        resolve(read(response));
      });
      call.write(headersOf(headers));
    });
  }

  /** A stream of external processing, on which nothing was said yet. */
  open(): ClientDuplexStream<ProcessingRequest, ProcessingResponse> {
    return this.#client.makeBidiStreamRequest(externalProcessorService.Process.path, encodeProcessingRequest, decodeProcessingResponse);
  }

  /** Reports requests as over, by the access log. */
  report(leases: readonly string[]): void {
    this.#log.write({
      http_logs: {
        log_entry: leases.map((lease) => ({ common_properties: { metadata: { filter_metadata: { fairlead: toStruct({ lease }) } } }, response: { response_code: { value: 200 } } })),
      },
    });
  }

  close(): void {
    this.#log.cancel();
    this.#client.close();
  }
}

/** The message that a stream begins with: headers that tell all, or that leave the rest to a body which comes whole. */
export function headersOf(headers: Readonly<Record<string, string>>, bodyFollows = false): ProcessingRequest {
  const all = { ':path': '/v1/chat/completions', ':method': 'POST', ...headers };
  return {
    request_headers: { headers: { headers: Object.entries(all).map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) }, end_of_stream: !bodyFollows },
    protocol_config: { request_body_mode: bodyFollows ? BodySendMode.BUFFERED : BodySendMode.NONE },
  };
}

function read({ immediate_response: refusal, dynamic_metadata: told }: ProcessingResponse): Said {
  if (refusal !== undefined) return { refused: refusal.status?.code ?? 0 };
  const namespaces = Object.fromEntries(Object.entries(told?.fields ?? {}).map(([name, { structValue = {} }]) => [name, structValue]));
  const metadata = { filter_metadata: namespaces };
  const lease = metadataString(metadata, 'fairlead', 'lease');
  const address = metadataString(metadata, 'envoy.lb', 'x-gateway-destination-endpoint')?.split(',')[0];
  if (lease === undefined || address === undefined) throw new Error(`neither a decision nor a refusal: ${JSON.stringify(told)}`);
  return { lease, address };
}
