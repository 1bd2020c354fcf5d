/** How to reach Redis (or Valkey), and how to use it. */
export interface RedisSettings {
  /** `redis://[user[:password]@]host[:port][/db]`, or `rediss://` for TLS. With Sentinel or Cluster only user, password and db count. */
  readonly url: string;
  readonly keyPrefix: string;
  readonly username: string | undefined;
  readonly password: string | undefined;
  readonly tls:
    | {
        /** PEM texts. */
        readonly ca: string | undefined;
        readonly cert: string | undefined;
        readonly key: string | undefined;
        readonly serverName: string | undefined;
      }
    | undefined;
  readonly sentinel:
    | { readonly nodes: readonly NodeAddress[]; readonly name: string; readonly username: string | undefined; readonly password: string | undefined }
    | undefined;
  readonly cluster: { readonly nodes: readonly NodeAddress[] } | undefined;
  readonly connectTimeoutMs: number;
  readonly commandTimeoutMs: number;
  /** Time between snapshots. */
  readonly snapshotMs: number;
  /** Events a second over the whole fleet up to which they are pushed. */
  readonly pushEventsPerSecondMax: number;
}

export interface NodeAddress {
  readonly host: string;
  readonly port: number;
}
