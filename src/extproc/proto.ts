// Loads protos/ and gives what the servers, reflection and fake clients need: service definitions and codecs.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { handleBidiStreamingCall, handleClientStreamingCall, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js';
import { loadSync, type MessageTypeDefinition, type MethodDefinition, type Options, type PackageDefinition } from '@grpc/proto-loader';
import type { ProcessingRequest, ProcessingResponse, StreamAccessLogsMessage, StreamAccessLogsResponse } from './messages.ts';

/** The package's name in package.json, by which its folder is found. */
const packageName = 'fairlead';

// This file runs as itself (tests) and as a bundle in dist/: no fixed relative path leads to protos/ from both.
function protosFolder(): string {
  const start = path.dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = path.dirname(folder)) {
    if (isOwnPackage(path.join(folder, 'package.json'))) return path.join(folder, 'protos');
    if (folder === path.dirname(folder)) {
      throw new Error(`no package.json of "${packageName}" in ${start} or above it, so protos/ cannot be found; ship both with the code`);
    }
  }
}

function isOwnPackage(file: string): boolean {
  try {
    return (JSON.parse(readFileSync(file, 'utf8')) as { name?: unknown }).name === packageName;
  } catch {
    return false; // absent, or not one that npm would take: look one folder up
  }
}

// The shapes in messages.ts follow from these. Enums and bytes have no option: by default they are numbers and Buffers.
const codecOptions: Options = { keepCase: true, longs: Number, defaults: false, oneofs: true };

/** Every service, message and enum of protos/, by full name. */
export const packageDefinition: PackageDefinition = loadSync(
  ['envoy/service/ext_proc/v3/external_processor.proto', 'envoy/service/accesslog/v3/als.proto'],
  { ...codecOptions, includeDirs: [protosFolder()] },
);

function service(name: string): ServiceDefinition {
  const found = packageDefinition[name];
  if (found === undefined || 'format' in found) throw new Error(`protos/ has no service ${name}`);
  return found;
}

/** What a server implements to be an external processor. */
export interface ExternalProcessorHandlers extends UntypedServiceImplementation {
  Process: handleBidiStreamingCall<ProcessingRequest, ProcessingResponse>;
}

/** What a server implements to receive access logs. */
export interface AccessLogHandlers extends UntypedServiceImplementation {
  StreamAccessLogs: handleClientStreamingCall<StreamAccessLogsMessage, StreamAccessLogsResponse>;
}

/** The service as grpc-js takes it, for `addService` and for clients. */
export interface ExternalProcessorDefinition extends ServiceDefinition {
  readonly Process: MethodDefinition<ProcessingRequest, ProcessingResponse>;
}

/** The service as grpc-js takes it, for `addService` and for clients. */
export interface AccessLogDefinition extends ServiceDefinition {
  readonly StreamAccessLogs: MethodDefinition<StreamAccessLogsMessage, StreamAccessLogsResponse>;
}

/** Full names, as in gRPC paths, health checks and reflection. */
export const externalProcessorName = 'envoy.service.ext_proc.v3.ExternalProcessor';
export const accessLogName = 'envoy.service.accesslog.v3.AccessLogService';

export const externalProcessorService = service(externalProcessorName) as ExternalProcessorDefinition;
export const accessLogService = service(accessLogName) as AccessLogDefinition;

// Decoding throws on bytes that are no such message. Encoding throws where a message is no object, and drops unknown properties silently.
const processMethod = externalProcessorService.Process;
export const encodeProcessingRequest: (message: ProcessingRequest) => Buffer = processMethod.requestSerialize;
export const decodeProcessingRequest: (bytes: Buffer) => ProcessingRequest = processMethod.requestDeserialize;
export const encodeProcessingResponse: (message: ProcessingResponse) => Buffer = processMethod.responseSerialize;
export const decodeProcessingResponse: (bytes: Buffer) => ProcessingResponse = processMethod.responseDeserialize;

const streamMethod = accessLogService.StreamAccessLogs;
export const encodeStreamAccessLogsMessage: (message: StreamAccessLogsMessage) => Buffer = streamMethod.requestSerialize;
export const decodeStreamAccessLogsMessage: (bytes: Buffer) => StreamAccessLogsMessage = streamMethod.requestDeserialize;

/**
 * {@link packageDefinition} for a reflection service: the same definitions with descriptors that clients can link.
 * The loader's own have relative type names, no imports, and map entries under names that protobuf forbids: with those, grpcurl lists the
 * services and fails to describe them.
 */
export function reflectionPackage(): PackageDefinition {
  const files = linkableFiles();
  const entries = Object.entries(packageDefinition).map(([name, definition]): [string, typeof definition] =>
    'fileDescriptorProtos' in definition ? [name, { ...definition, fileDescriptorProtos: files } as typeof definition] : [name, definition],
  );
  return Object.fromEntries(entries);
}

// What is touched of google/protobuf/descriptor.proto, in the camelCase in which protobufjs brings that file.
interface FileDescriptor {
  name: string;
  package: string;
  dependency?: string[];
  messageType?: MessageDescriptor[];
  enumType?: { name: string }[];
}

interface MessageDescriptor {
  name: string;
  field?: { name: string; typeName?: string }[];
  nestedType?: MessageDescriptor[];
  enumType?: { name: string }[];
  options?: { mapEntry?: boolean };
}

// One file per package, as the loader makes them (`envoy_service_ext_proc_v3.proto`). Both services only use types of their own package,
// under absolute names, so they need no linking.
function linkableFiles(): Buffer[] {
  const descriptors = loadSync('google/protobuf/descriptor.proto', codecOptions);
  const codec = descriptors['google.protobuf.FileDescriptorProto'] as MessageTypeDefinition<FileDescriptor, FileDescriptor>;
  const files = externalProcessorService.Process.requestType.fileDescriptorProtos.map((bytes) => codec.deserialize(bytes));

  const fileOfType = new Map<string, string>();
  for (const file of files) {
    for (const { name } of file.enumType ?? []) fileOfType.set(`${file.package}.${name}`, file.name);
    for (const [fullName, message] of messagesIn(file.package, file.messageType)) {
      renameMapEntries(message);
      if (file.package === 'google.protobuf') renameFieldsAsPublished(message);
      fileOfType.set(fullName, file.name);
      for (const { name } of message.enumType ?? []) fileOfType.set(`${fullName}.${name}`, file.name);
    }
  }
  for (const file of files) {
    const imports = new Set<string>();
    for (const [fullName, message] of messagesIn(file.package, file.messageType)) {
      for (const field of message.field ?? []) {
        if (field.typeName === undefined) continue;
        const type = resolve(field.typeName, fullName, fileOfType);
        field.typeName = `.${type}`;
        imports.add(fileOfType.get(type) ?? '');
      }
    }
    imports.delete(file.name);
    file.dependency = [...imports].sort();
  }
  return files.map((file) => codec.serialize(file));
}

/** Messages with their full names, outer before inner: the outer one may be changed before its inner ones are named. */
function* messagesIn(scope: string, messages: readonly MessageDescriptor[] = []): Generator<[string, MessageDescriptor]> {
  for (const message of messages) {
    const fullName = `${scope}.${message.name}`;
    yield [fullName, message];
    yield* messagesIn(fullName, message.nestedType);
  }
}

// protobuf wants `filter_metadata`'s entries to be named FilterMetadataEntry (descriptor.proto, MessageOptions.map_entry).
function renameMapEntries(message: MessageDescriptor): void {
  for (const entry of message.nestedType ?? []) {
    if (entry.options?.mapEntry !== true) continue;
    const loaded = entry.name;
    entry.name = `${loaded.replace(/(?:^|_)(.)/g, (_, letter: string) => letter.toUpperCase())}Entry`;
    for (const field of message.field ?? []) if (field.typeName === loaded) field.typeName = entry.name;
  }
}

function renameFieldsAsPublished(message: MessageDescriptor): void {
  for (const field of message.field ?? []) field.name = field.name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

// A relative name is looked for from the innermost scope outwards.
function resolve(name: string, scope: string, known: ReadonlyMap<string, string>): string {
  for (let outer = scope; outer !== ''; outer = outer.slice(0, Math.max(outer.lastIndexOf('.'), 0))) {
    if (known.has(`${outer}.${name}`)) return `${outer}.${name}`;
  }
  if (known.has(name)) return name;
  throw new Error(`protos/: ${scope} refers to ${name}, which is nowhere`);
}
