import type { CommonResponse, HeaderMutation, ProcessingMode, Struct, Value } from '../messages.ts';

// What answers have in common is the same for thousands of them: it is put into its wire form once. Whoever does not know of that (the generic codec of
// the grpc-js server) finds all members where they belong.

/** A response to headers or body whose wire form is kept. */
export class PreparedResponse implements CommonResponse {
  readonly header_mutation: HeaderMutation;
  readonly clear_route_cache: boolean;
  /** Its fields on the wire, without tag and length. */
  readonly encoded: Buffer;
  /** Whole answers with this response, as they were sent before. Oldest first; for the encoder alone. */
  readonly sent: SentAnswer[] = [];

  constructor(response: Required<Pick<CommonResponse, 'header_mutation' | 'clear_route_cache'>>, encode: (response: CommonResponse) => Buffer) {
    this.header_mutation = response.header_mutation;
    this.clear_route_cache = response.clear_route_cache;
    this.encoded = encode(response);
  }
}

/** An answer on the wire, of which the next one differs in the lease alone. */
export interface SentAnswer {
  readonly phase: 'request_headers' | 'request_body';
  /** By identity. */
  readonly mode: ProcessingMode | undefined;
  readonly metadata: PreparedMetadata | undefined;
  /** Room before it, in bytes. */
  readonly prefixBytes: number;
  readonly bytes: Buffer;
  /** Where the lease stands, and how long it is: in ASCII. 0: there is none. */
  readonly leaseAt: number;
  readonly leaseBytes: number;
}

/** Metadata of answers that differ in the lease alone: `{ fairlead: { lease, … }, … }`. */
export class PreparedMetadata {
  readonly told: Readonly<Record<string, Value>>;
  readonly others: Readonly<Record<string, Value>>;
  /** `told` on the wire, as entries of a Struct. */
  readonly encodedTold: Buffer;
  /** `others` likewise. */
  readonly encodedOthers: Buffer;

  /** `told`: what stands beside the lease. `others`: the other namespaces. */
  constructor(told: Readonly<Record<string, Value>>, others: Readonly<Record<string, Value>>, encode: (struct: Struct) => Buffer) {
    this.told = told;
    this.others = others;
    this.encodedTold = encode({ fields: told });
    this.encodedOthers = encode({ fields: others });
  }
}

/** The namespace of what is ours. */
export const ownNamespace = 'fairlead';

/** The metadata of one answer. */
export class LeaseMetadata implements Struct {
  readonly prepared: PreparedMetadata;
  readonly lease: string;

  constructor(prepared: PreparedMetadata, lease: string) {
    this.prepared = prepared;
    this.lease = lease;
  }

  /** Made anew each time: for the generic codec, and for tests. */
  get fields(): Record<string, Value> {
    const { told, others } = this.prepared;
    return { ...others, [ownNamespace]: { structValue: { fields: { lease: { stringValue: this.lease }, ...told } } } };
  }
}
