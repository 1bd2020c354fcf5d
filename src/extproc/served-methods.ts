import { adoptServices } from './adopted-services.ts';
import { prefixBytes } from './deframer.ts';
import type { Method } from './grpc-call.ts';
import type { GrpcServices } from './grpc-transport.ts';
import type { ProcessingRequest, ProcessingResponse, StreamAccessLogsMessage, StreamAccessLogsResponse } from './messages.ts';
import { accessLogService, externalProcessorService } from './proto.ts';
import { decodeStreamAccessLogsMessage } from './wire/access-log-message.ts';
import { decodeProcessingRequest } from './wire/processing-request.ts';
import { encodeProcessingResponse } from './wire/processing-response.ts';

/** All methods of these services by path, the hot ones with the codecs of `wire/`. */
export function toMethods(services: GrpcServices): ReadonlyMap<string, Method<unknown, unknown>> {
  const methods = adoptServices((server) => services.addTo(server));
  const process: Method<ProcessingRequest, ProcessingResponse> = {
    decode: (bytes) => decodeProcessingRequest(bytes, services.wantsAttributes()),
    encode: (response) => encodeProcessingResponse(response, prefixBytes),
    open: (call) => services.openProcess(call),
  };
  const accessLogs: Method<StreamAccessLogsMessage, StreamAccessLogsResponse> = {
    decode: decodeStreamAccessLogsMessage,
    encode: () => ({ head: Buffer.alloc(prefixBytes), tail: undefined }),
    open: (call) =>
      services.openAccessLog(() => {
        call.send({});
        call.end();
      }),
  };
  methods.set(externalProcessorService.Process.path, process);
  methods.set(accessLogService.StreamAccessLogs.path, accessLogs);
  return methods;
}
